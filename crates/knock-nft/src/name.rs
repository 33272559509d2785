//! Names that the kernel takes and nft can read back.

use crate::error::Error;

/// `NFT_NAME_MAXLEN` without the final NUL.
const TABLE_NAME_MAX: usize = 255;
/// `IFNAMSIZ` without the final NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// Words of nft's language that it does not take for a name. The kernel would, but then nobody could list or delete the
/// table with nft, nor load its listing again.
const KEYWORDS: &[&str] = &["rt"];

/// Checks that a table of that name can be made, and listed with nft: a letter, then letters, digits, `_`, `.`, `-` and
/// `/`, at most 255, and no keyword of nft's.
///
/// # Errors
/// [`Error::TableName`] with the rule that the name breaks.
pub fn check_table_name(name: &str) -> Result<(), Error> {
    let fail = |reason| Err(Error::TableName { name: name.to_owned(), reason });
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return fail("it must start with a letter");
    }
    if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-' | '/')) {
        return fail("only letters, digits, `_`, `.`, `-` and `/` may stand in it");
    }
    if name.len() > TABLE_NAME_MAX {
        return fail("it may have at most 255 characters");
    }
    if KEYWORDS.contains(&name) {
        return fail("it is a word of nft's language, and nft could not list the table; choose another");
    }
    Ok(())
}

/// Checks a name as the kernel does (`dev_valid_name`).
pub(crate) fn check_interface_name(name: &str) -> Result<(), Error> {
    let valid = (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte != 0 && byte != b'/' && byte != b':' && !byte.is_ascii_whitespace());
    if valid { Ok(()) } else { Err(Error::InterfaceName { name: name.to_owned() }) }
}
