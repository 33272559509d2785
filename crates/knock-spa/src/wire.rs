//! The data types of ssh: RFC 4251, section 5.

/// Reads from the start of what is left.
pub(crate) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader(bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn string(&mut self) -> Option<&'b [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// A string of exactly that length.
    pub(crate) fn string_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.string()?.try_into().ok()
    }

    /// A positive `mpint` below 256 to the power of N, in N bytes.
    ///
    /// Some agents of security chips write zeros in front that do not belong there. OpenSSH accepts them too
    /// (`sshbuf_get_bignum2_bytes_direct`).
    pub(crate) fn positive_integer<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.string()?;
        // A negative number begins with that bit.
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return None;
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let digits = &bytes[zeros..];
        let mut number = [0; N];
        number[N.checked_sub(digits.len())?..].copy_from_slice(digits);
        Some(number)
    }

    pub(crate) fn rest(&self) -> &'b [u8] {
        self.0
    }

    /// `Some` if nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends a string.
///
/// # Panics
///
/// If it has 4 GiB or more, which nothing here has.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("strings here are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}
