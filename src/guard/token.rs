//! The bearer token: one a line, the first is shown to others, all are taken from them.
//!
//! Two lines let a token be replaced without a moment in which one side has the old and the other the new one. Of the
//! tokens that are taken only digests are kept, which also makes the time of a comparison independent of their length.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::SecretFile;
use super::watched::Watched;
use crate::domain::InvalidField;

/// Most tokens in a file.
const MOST_TOKENS: usize = 8;

/// Longest token in bytes: a header of it has to fit into what servers take.
const MAX_TOKEN_BYTES: usize = 4096;

/// What a file may hold.
const ALLOWED: &str = "a file with one token of printable ASCII characters without spaces, or one a line, the first of \
                       which is shown to others";

/// How a caller has to begin.
const SCHEME: &str = "bearer ";

/// The tokens of a file at one time.
struct Tokens {
    first: Zeroizing<String>,
    digests: Vec<[u8; 32]>,
}

/// A token, to be shown to another server. Not shown in Debug, wiped when dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    /// The value of the `authorization` header.
    pub fn header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.0.as_str()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(********)")
    }
}

/// A file with tokens, read again when it changes.
#[derive(Debug)]
pub struct TokenFile(Watched<Tokens>);

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or holds no token. No error repeats what is in it.
    pub fn open(file: SecretFile) -> Result<Self, InvalidField> {
        let files = [file.clone()];
        Ok(Self(Watched::open(&files, move || Tokens::read(&file))?))
    }

    /// The token to show to others.
    pub fn token(&self) -> Token {
        Token(self.0.current().first.clone())
    }

    /// Whether `authorization`, the value of the header of that name, has one of the tokens.
    pub fn takes(&self, authorization: &[u8]) -> bool {
        let Some((scheme, presented)) = authorization.split_at_checked(SCHEME.len()) else { return false };
        if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
            return false;
        }
        let presented: [u8; 32] = Sha256::digest(presented).into();
        let tokens = self.0.current();
        let any = tokens.digests.iter().fold(Choice::from(0), |any, known| any | known.ct_eq(&presented));
        any.into()
    }
}

impl Tokens {
    fn read(file: &SecretFile) -> Result<Self, InvalidField> {
        let bytes = file.read()?;
        let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let tokens: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        let fits = |token: &&[u8]| token.len() <= MAX_TOKEN_BYTES && token.iter().all(u8::is_ascii_graphic);
        let first = tokens.first().and_then(|first| std::str::from_utf8(first).ok());
        match first {
            Some(first) if tokens.len() <= MOST_TOKENS && tokens.iter().all(fits) => Ok(Self {
                first: Zeroizing::new(first.to_owned()),
                digests: tokens.iter().map(|token| Sha256::digest(token).into()).collect(),
            }),
            _ => Err(file.invalid(ALLOWED)),
        }
    }
}
