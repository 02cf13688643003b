//! A dataset_path without what may be secret in it, for logs, errors and files.

use std::borrow::Cow;

/// What stands for what is not shown.
const MASK: &str = "…";

/// `path` as it may be shown: of a URL neither who asks (before `@`) nor the query, which may hold a signature.
///
/// Whatever has a scheme counts as a URL, also a misspelt one; only those of the worker's own sets have nothing to hide.
pub fn masked_path(path: &str) -> Cow<'_, str> {
    let (scheme_end, authority) = match (path.find("://"), path.find(':')) {
        (Some(at), _) => (at + 3, true),
        (None, Some(at)) if !path.get(..at).is_some_and(|scheme| scheme.contains('/')) => (at + 1, false),
        (None, _) => return Cow::Borrowed(path),
    };
    let (scheme, rest) = path.split_at_checked(scheme_end).unwrap_or((path, ""));
    if matches!(scheme, "builtin:" | "synthetic:") {
        return Cow::Borrowed(path);
    }
    let query = rest.find(['?', '#']);
    let before = query.and_then(|at| rest.get(..at)).unwrap_or(rest);
    // After an @ a name may stand that a browser would take for the host; what comes before the last one is hidden.
    let end = if authority { before.find(['/', '\\']).unwrap_or(before.len()) } else { before.len() };
    let user = before.get(..end).and_then(|authority| authority.rfind('@'));
    let shown = user.and_then(|at| before.get(at..)).unwrap_or(before);
    if query.is_none() && user.is_none() {
        return Cow::Borrowed(path);
    }
    let user = if user.is_some() { MASK } else { "" };
    let query = if query.is_some() { "?…" } else { "" };
    Cow::Owned(format!("{scheme}{user}{shown}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_queries_of_urls_are_not_shown() {
        for (path, shown) in [
            ("https://host/a.csv?X-Amz-Signature=s3cret", "https://host/a.csv?…"),
            ("https://host?sig=s3cret", "https://host?…"),
            ("https://host/a.csv#s3cret", "https://host/a.csv?…"),
            ("https://me:s3cret@host:8080/a", "https://…@host:8080/a"),
            ("https://me:s3cret@evil@host/a?b", "https://…@host/a?…"),
            ("https:/host/a.csv?sig=s3cret", "https:/host/a.csv?…"),
            ("HTTPS://host/a?s3cret", "HTTPS://host/a?…"),
            ("/https://me:s3cret@host/a?s3cret", "/https://…@host/a?…"),
            ("https:me:s3cret@host", "https:…@host"),
            ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv"),
        ] {
            assert_eq!(masked_path(path), shown);
        }
        for path in ["builtin:iris", "synthetic:regression?rows=5", "a b.csv", "/data/x?y.csv", "./a:b", ""] {
            assert_eq!(masked_path(path), path);
        }
    }
}
