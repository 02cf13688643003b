//! The live page: files that are compiled in, and served under a policy that lets them load nothing else.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name under /page/, type and text.
const FILES: &[(&str, &str, &str)] = &[
    ("", HTML, include_str!("page/index.html")),
    ("style.css", CSS, include_str!("page/style.css")),
    ("theme.js", SCRIPT, include_str!("page/theme.js")),
    ("main.js", SCRIPT, include_str!("page/main.js")),
    ("state.js", SCRIPT, include_str!("page/state.js")),
    ("format.js", SCRIPT, include_str!("page/format.js")),
    ("charts.js", SCRIPT, include_str!("page/charts.js")),
    ("tables.js", SCRIPT, include_str!("page/tables.js")),
    ("cards.js", SCRIPT, include_str!("page/cards.js")),
    ("uPlot.js", SCRIPT, include_str!("page/uplot/uPlot.iife.min.js")),
    ("uPlot.css", CSS, include_str!("page/uplot/uPlot.min.css")),
    ("uPlot-LICENSE.txt", "text/plain; charset=utf-8", include_str!("page/uplot/LICENSE")),
];

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself is "", what it consists of has a name.
pub(super) fn file(name: &str) -> Result<Response, Problem> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = found.ok_or_else(|| Problem::not_found(&format!("/page/{name}")))?;
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Asked for again after each update of the worker.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, *text).into_response())
}
