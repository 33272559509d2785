//! Netlink messages read and requests written, in plain bytes (netlink(7); linux/netfilter/nf_tables.h).
//!
//! What is sent to change something is built by libnftnl. Replies are read here rather than there, because a reader of
//! type-length-value records in safe Rust is shorter than the fences round the parsers of a C library.

/// The size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The size of `struct nlmsghdr` and `struct nfgenmsg`.
const PREFIX: usize = HEADER + 4;
/// The flag bits in an attribute's type (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;

/// Attributes of tables (`enum nft_table_attributes`).
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const HANDLE: u16 = 4;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const OWNER: u16 = 7;
}

/// Attributes of chains (`enum nft_chain_attributes`, `enum nft_hook_attributes`).
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const HANDLE: u16 = 2;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

/// Attributes of rules (`enum nft_rule_attributes`, `enum nft_expr_attributes`, `enum nft_counter_attributes`).
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    pub(crate) const EXPRESSION_DATA: u16 = 2;
    pub(crate) const COUNTER_PACKETS: u16 = 2;
}

/// Attributes of sets (`enum nft_set_attributes`, `enum nft_set_desc_attributes`).
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const TIMEOUT: u16 = 11;
    pub(crate) const HANDLE: u16 = 16;
    pub(crate) const SIZE: u16 = 1;
}

/// Attributes of elements (`enum nft_set_elem_list_attributes`, `enum nft_set_elem_attributes`, `enum nft_data_attributes`).
pub(crate) mod element {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const IN_LIST: u16 = 1;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const TIMEOUT: u16 = 4;
    pub(crate) const EXPIRATION: u16 = 5;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const VALUE: u16 = 1;
}

/// Attributes of a generation (`enum nft_gen_attributes`).
pub(crate) mod generation {
    pub(crate) const PROCESS_ID: u16 = 2;
    pub(crate) const PROCESS_NAME: u16 = 3;
}

/// A netlink message in a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn u16_at(self, offset: usize) -> u16 {
        self.bytes.get(offset..offset + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
    }

    fn u32_at(self, offset: usize) -> u32 {
        self.bytes.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    /// The whole type: the subsystem in the upper byte, or one of the control types.
    pub(crate) fn kind(self) -> u16 {
        self.u16_at(4)
    }

    pub(crate) fn flags(self) -> u16 {
        self.u16_at(6)
    }

    pub(crate) fn sequence(self) -> u32 {
        self.u32_at(8)
    }

    /// The port id of the socket that asked for this, or that made the change which the message reports.
    pub(crate) fn port_id(self) -> u32 {
        self.u32_at(12)
    }

    /// The errno of an `NLMSG_ERROR`; zero in an acknowledgement.
    pub(crate) fn errno(self) -> i32 {
        self.u32_at(HEADER).cast_signed().saturating_neg()
    }

    /// The address family of a netfilter message.
    pub(crate) fn family(self) -> u8 {
        self.bytes.get(HEADER).copied().unwrap_or(0)
    }

    /// The attributes of a netfilter message.
    pub(crate) fn attributes(self) -> Attributes<'a> {
        Attributes(self.bytes.get(PREFIX..).unwrap_or(&[]))
    }
}

/// The messages in a datagram; ends at the first malformed one.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?) as usize;
        if length < HEADER {
            return None;
        }
        let bytes = self.0.get(..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { bytes })
    }
}

/// Attributes in their order; ends at the first malformed one.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of that type.
    pub(crate) fn get(self, kind: u16) -> Option<Attribute<'a>> {
        self.into_iter().find_map(|(found, attribute)| (found == kind).then_some(attribute))
    }

    pub(crate) fn string(self, kind: u16) -> Option<&'a str> {
        self.get(kind).and_then(Attribute::string)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(Attribute::be32)
    }

    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind).and_then(Attribute::be64)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Attribute<'a>);

    fn next(&mut self) -> Option<(u16, Attribute<'a>)> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, Attribute(payload)))
    }
}

/// The payload of an attribute.
#[derive(Clone, Copy)]
pub(crate) struct Attribute<'a>(pub(crate) &'a [u8]);

impl<'a> Attribute<'a> {
    pub(crate) fn nested(self) -> Attributes<'a> {
        Attributes(self.0)
    }

    pub(crate) fn string(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok().map(|text| text.trim_end_matches('\0'))
    }

    pub(crate) fn be32(self) -> Option<u32> {
        self.0.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(self) -> Option<u64> {
        self.0.try_into().ok().map(u64::from_be_bytes)
    }
}

/// A question to nf_tables.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of that `NFT_MSG_GET…` type. `flags` come on top of `NLM_F_REQUEST`.
    pub(crate) fn new(message: libc::c_int, family: u8, flags: libc::c_int) -> Request {
        let kind = subsystem_type(message);
        let flags = low_half(libc::NLM_F_REQUEST | flags);
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[family, 0, 0, 0]);
        Request { bytes }
    }

    /// Appends a string with its final NUL.
    pub(crate) fn string(self, kind: u16, text: &str) -> Request {
        self.payload(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends a number, most significant byte first.
    pub(crate) fn be64(self, kind: u16, number: u64) -> Request {
        self.payload(kind, &number.to_be_bytes())
    }

    /// Appends the key of an element, in a list of one.
    pub(crate) fn element_key(self, key: &[u8]) -> Request {
        let value = nest(element::VALUE, key);
        let listed = nest(element::KEY | NESTED, &value);
        self.payload(element::LIST_ELEMENTS | NESTED, &nest(element::IN_LIST | NESTED, &listed))
    }

    fn payload(mut self, kind: u16, payload: &[u8]) -> Request {
        self.bytes.extend_from_slice(&nest(kind, payload));
        self
    }

    /// The bytes to send, numbered.
    pub(crate) fn numbered(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(field) = self.bytes.get_mut(8..12) {
            field.copy_from_slice(&sequence.to_ne_bytes());
        }
        &self.bytes
    }
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// One attribute, padded. The payloads of requests are names (at most 255 bytes) and keys, so lengths never overflow.
fn nest(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The netlink type of an `NFT_MSG_…`: `NFNL_SUBSYS_NFTABLES` in the upper byte.
pub(crate) fn subsystem_type(message: libc::c_int) -> u16 {
    low_half(libc::NFNL_SUBSYS_NFTABLES << 8 | message)
}

/// A kernel constant that libc declares as an int and the protocol carries in sixteen bits.
#[expect(clippy::cast_possible_truncation, reason = "the constants are below 65536")]
#[expect(clippy::cast_sign_loss, reason = "the constants are not negative")]
pub(crate) const fn low_half(constant: libc::c_int) -> u16 {
    constant as u16
}

/// Asks for the elements of a set.
pub(crate) fn elements_request(family: u8, table: &str, set: &str, flags: libc::c_int) -> Request {
    use element::{LIST_SET, LIST_TABLE};
    Request::new(libc::NFT_MSG_GETSETELEM, family, flags).string(LIST_TABLE, table).string(LIST_SET, set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let mut request = Request::new(libc::NFT_MSG_GETSETELEM, 1, libc::NLM_F_DUMP)
            .string(element::LIST_TABLE, "knockd")
            .element_key(&[10, 0, 0, 1]);
        let bytes = request.numbered(7).to_vec();
        let message = Messages(&bytes).next().expect("a message");
        assert_eq!((message.kind(), message.sequence(), message.family()), (0x0a0d, 7, 1));
        assert_eq!(message.attributes().string(element::LIST_TABLE), Some("knockd"));
        let key = message
            .attributes()
            .get(element::LIST_ELEMENTS)
            .and_then(|list| list.nested().get(element::IN_LIST))
            .and_then(|one| one.nested().get(element::KEY))
            .and_then(|key| key.nested().get(element::VALUE));
        assert_eq!(key.map(|key| key.0), Some(&[10, 0, 0, 1][..]));
        assert!(Messages(&bytes).nth(1).is_none());
    }

    #[test]
    fn malformed_lengths_end_the_reading_without_a_panic() {
        for bytes in [&[][..], &[1], &[0; 16], &[255; 16], &[16, 0, 0, 0], &[3, 0, 0, 0, 9, 9, 9, 9]] {
            assert!(Messages(bytes).next().is_none());
            assert_eq!(Attributes(bytes).take(4).count(), Attributes(bytes).count());
        }
        assert!(Attributes(&[3, 0, 1, 0]).next().is_none(), "shorter than its own header");
        assert!(Attributes(&[9, 0, 1, 0, 0]).next().is_none(), "longer than the buffer");
        assert_eq!(Attributes(&[5, 0, 1, 0, 7]).next().map(|(kind, a)| (kind, a.0)), Some((1, &[7][..])));
    }
}
