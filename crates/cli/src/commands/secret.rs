//! Where a token is read from: the command line, a file, or standard input.
//!
//! A command line is visible to everybody on the machine (`ps`), so whatever starts `weft` for a person uses one of the
//! other two.

use crate::failure::{Failure, Outcome};
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Far more than a token has.
const MAX_TOKEN_BYTES: u64 = 4096;

/// `-` is the first line of standard input, `@FILE` that of a file, anything else is the token itself.
///
/// # Errors
/// When there is nothing to read.
pub fn token(given: &str) -> Outcome<String> {
    match given.strip_prefix('@') {
        Some(path) => {
            let file = File::open(path)
                .map_err(|error| Failure::input(format!("could not read the token from {path}: {error}")))?;
            first_line(BufReader::new(file), path)
        }
        None if given == "-" => first_line(std::io::stdin().lock(), "standard input"),
        None => Ok(given.to_owned()),
    }
}

fn first_line(source: impl BufRead, name: &str) -> Outcome<String> {
    let mut line = String::new();
    source
        .take(MAX_TOKEN_BYTES)
        .read_line(&mut line)
        .map_err(|error| Failure::input(format!("could not read the token from {name}: {error}")))?;
    let token = line.trim();
    if token.is_empty() {
        return Err(Failure::input(format!("there is no token in {name}: make one with `weft token create`")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_from_the_command_line_or_a_file() {
        assert_eq!(token("weft-abc").unwrap(), "weft-abc");
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = || token(&format!("@{}", file.path().display()));
        assert!(from_file().unwrap_err().to_string().contains("there is no token in"));
        std::fs::write(file.path(), "  weft-abc \nsomething else").unwrap();
        assert_eq!(from_file().unwrap(), "weft-abc");
        let missing = token("@/nonexistent/token").unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/token"), "{missing}");
    }
}
