//! The expressions of nftables rules: instructions for the kernel's packet matching machine (nft(8), "EXPRESSIONS").
//!
//! nftnl's own expression types always use register 1, and there is none for `fib`; a concatenation takes several
//! registers. So these are built by attribute.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use nftnl::Rule;
use nftnl_sys as sys;

/// The first data register, of 16 bytes.
pub(crate) const REGISTER_1: libc::c_int = libc::NFT_REG_1;

/// The 32-bit register that is `words` words behind the start of register 1: the next part of a concatenation.
pub(crate) const fn register(words: libc::c_int) -> libc::c_int {
    libc::NFT_REG32_00 + words
}

enum Value {
    Number(libc::c_int),
    Byte(u8),
    Bytes(Vec<u8>),
    Text(CString),
    Long(u64),
}

use Value::{Bytes, Number, Text};

/// An expression: its name in the kernel, and its attributes.
pub(crate) struct Expression {
    name: &'static CStr,
    attributes: Vec<(u32, Value)>,
}

// Of linux/netfilter/nf_tables.h: NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE and NFT_EXTHDR_OP_IPV6.
const FIB_SOURCE: libc::c_int = 1 << 0;
const FIB_DESTINATION: libc::c_int = 1 << 1;
const FIB_ADDRESS_TYPE: libc::c_int = 3;
const EXTHDR_IPV6: libc::c_int = 0;

/// `NFT_DYNSET_OP_DELETE`.
const DYNSET_DELETE: libc::c_int = 2;

/// What a packet does to a set.
#[derive(Clone, Copy)]
pub(crate) enum SetChange {
    /// Adds an element, where there is none, for so many milliseconds.
    Add(u64),
    /// Deletes the element.
    Delete,
    /// Deletes the element of a map. The kernel wants a register with data, and does not look at it.
    DeleteMapped(libc::c_int),
}

/// Where a header has a field.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    /// `NFT_PAYLOAD_…_HEADER`.
    pub(crate) header: libc::c_int,
    /// In bytes from the start of the header.
    pub(crate) offset: libc::c_int,
    /// In bytes.
    pub(crate) length: libc::c_int,
}

impl Expression {
    /// Loads a property of the packet (`NFT_META_…`).
    pub(crate) fn meta(key: libc::c_int, register: libc::c_int) -> Expression {
        let attributes = vec![(sys::NFTNL_EXPR_META_KEY, Number(key)), (sys::NFTNL_EXPR_META_DREG, Number(register))];
        Expression { name: c"meta", attributes }
    }

    /// Loads a field of a header. Where the packet does not show it, the rule does not match.
    pub(crate) fn payload(field: Field, register: libc::c_int) -> Expression {
        let mut expression = Expression::field(field);
        expression.attributes.push((sys::NFTNL_EXPR_PAYLOAD_DREG, Number(register)));
        expression
    }

    /// Writes register 1 to a field of the IPv4 header, and adapts the checksum of that header.
    pub(crate) fn write_ipv4(field: Field) -> Expression {
        let mut expression = Expression::write(field);
        expression.attributes.extend([
            (sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, Number(libc::NFT_PAYLOAD_CSUM_INET)),
            (sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, Number(10)),
        ]);
        expression
    }

    /// Writes register 1 to a field that no checksum covers.
    pub(crate) fn write(field: Field) -> Expression {
        let mut expression = Expression::field(field);
        expression.attributes.push((sys::NFTNL_EXPR_PAYLOAD_SREG, Number(REGISTER_1)));
        expression
    }

    fn field(Field { header, offset, length }: Field) -> Expression {
        let attributes = vec![
            (sys::NFTNL_EXPR_PAYLOAD_BASE, Number(header)),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, Number(offset)),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, Number(length)),
        ];
        Expression { name: c"payload", attributes }
    }

    /// Loads two bytes of the first IPv6 extension header of a type. Where there is none, the rule does not match.
    pub(crate) fn extension_header(kind: u8, offset: libc::c_int) -> Expression {
        let attributes = vec![
            (sys::NFTNL_EXPR_EXTHDR_DREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_EXTHDR_TYPE, Value::Byte(kind)),
            (sys::NFTNL_EXPR_EXTHDR_OFFSET, Number(offset)),
            (sys::NFTNL_EXPR_EXTHDR_LEN, Number(2)),
            (sys::NFTNL_EXPR_EXTHDR_OP, Number(EXTHDR_IPV6)),
        ];
        Expression { name: c"exthdr", attributes }
    }

    /// Loads a constant into register 1.
    pub(crate) fn constant(data: &[u8]) -> Expression {
        Expression::constant_in(REGISTER_1, data)
    }

    /// Loads a constant into a register.
    pub(crate) fn constant_in(register: libc::c_int, data: &[u8]) -> Expression {
        let attributes =
            vec![(sys::NFTNL_EXPR_IMM_DREG, Number(register)), (sys::NFTNL_EXPR_IMM_DATA, Bytes(data.to_vec()))];
        Expression { name: c"immediate", attributes }
    }

    /// Goes on where register 1 equals `data`.
    pub(crate) fn equal(data: &[u8]) -> Expression {
        Expression::compare(libc::NFT_CMP_EQ, data)
    }

    /// Goes on where register 1 differs from `data`.
    pub(crate) fn unequal(data: &[u8]) -> Expression {
        Expression::compare(libc::NFT_CMP_NEQ, data)
    }

    /// Goes on where register 1 is `data` or more, in network byte order.
    pub(crate) fn at_least(data: &[u8]) -> Expression {
        Expression::compare(libc::NFT_CMP_GTE, data)
    }

    /// Goes on where register 1 is `data` or less, in network byte order.
    pub(crate) fn at_most(data: &[u8]) -> Expression {
        Expression::compare(libc::NFT_CMP_LTE, data)
    }

    fn compare(operator: libc::c_int, data: &[u8]) -> Expression {
        let attributes = vec![
            (sys::NFTNL_EXPR_CMP_SREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_CMP_OP, Number(operator)),
            (sys::NFTNL_EXPR_CMP_DATA, Bytes(data.to_vec())),
        ];
        Expression { name: c"cmp", attributes }
    }

    /// Goes on where register 1 has any bit of `mask`.
    pub(crate) fn any_of(mask: &[u8]) -> [Expression; 2] {
        [Expression::masked(mask), Expression::unequal(&vec![0; mask.len()])]
    }

    /// Clears the bits of register 1 that `mask` does not have.
    pub(crate) fn masked(mask: &[u8]) -> Expression {
        let zeros = vec![0; mask.len()];
        let length = libc::c_int::try_from(mask.len()).unwrap_or(0);
        let attributes = vec![
            (sys::NFTNL_EXPR_BITWISE_SREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_BITWISE_DREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_BITWISE_LEN, Number(length)),
            (sys::NFTNL_EXPR_BITWISE_MASK, Bytes(mask.to_vec())),
            (sys::NFTNL_EXPR_BITWISE_XOR, Bytes(zeros)),
        ];
        Expression { name: c"bitwise", attributes }
    }

    /// Loads the state of the packet's tracked connection, as a bit mask in host byte order.
    pub(crate) fn connection_state() -> Expression {
        let attributes =
            vec![(sys::NFTNL_EXPR_CT_DREG, Number(REGISTER_1)), (sys::NFTNL_EXPR_CT_KEY, Number(libc::NFT_CT_STATE))];
        Expression { name: c"ct", attributes }
    }

    /// Loads the routing type of the source address (`RTN_…` of rtnetlink(7)), in host byte order.
    pub(crate) fn source_type() -> Expression {
        Expression::address_type(FIB_SOURCE)
    }

    /// Loads the routing type of the destination address.
    pub(crate) fn destination_type() -> Expression {
        Expression::address_type(FIB_DESTINATION)
    }

    fn address_type(flags: libc::c_int) -> Expression {
        let attributes = vec![
            (sys::NFTNL_EXPR_FIB_DREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_FIB_RESULT, Number(FIB_ADDRESS_TYPE)),
            (sys::NFTNL_EXPR_FIB_FLAGS, Number(flags)),
        ];
        Expression { name: c"fib", attributes }
    }

    /// Goes on where what starts in register 1 is in the set.
    pub(crate) fn lookup(set: &CStr) -> Expression {
        let attributes =
            vec![(sys::NFTNL_EXPR_LOOKUP_SREG, Number(REGISTER_1)), (sys::NFTNL_EXPR_LOOKUP_SET, Text(set.to_owned()))];
        Expression { name: c"lookup", attributes }
    }

    /// Loads into a register what the map has for what starts in register 1. Where it has nothing, the rule does not match.
    pub(crate) fn lookup_value(map: &CStr, register: libc::c_int) -> Expression {
        let mut expression = Expression::lookup(map);
        expression.attributes.push((sys::NFTNL_EXPR_LOOKUP_DREG, Number(register)));
        expression
    }

    /// Sets a property of the packet (`NFT_META_…`) to what is in register 1.
    pub(crate) fn set_meta(key: libc::c_int) -> Expression {
        let attributes = vec![(sys::NFTNL_EXPR_META_KEY, Number(key)), (sys::NFTNL_EXPR_META_SREG, Number(REGISTER_1))];
        Expression { name: c"meta", attributes }
    }

    /// Changes a set by what starts in register 1.
    pub(crate) fn change(set: &CStr, change: SetChange) -> Expression {
        let operation = match change {
            SetChange::Add(_) => libc::NFT_DYNSET_OP_ADD,
            SetChange::Delete | SetChange::DeleteMapped(_) => DYNSET_DELETE,
        };
        let mut attributes = vec![
            (sys::NFTNL_EXPR_DYNSET_SREG_KEY, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_DYNSET_OP, Number(operation)),
            (sys::NFTNL_EXPR_DYNSET_SET_NAME, Text(set.to_owned())),
        ];
        match change {
            SetChange::Add(timeout) => attributes.push((sys::NFTNL_EXPR_DYNSET_TIMEOUT, Value::Long(timeout))),
            SetChange::DeleteMapped(data) => attributes.push((sys::NFTNL_EXPR_DYNSET_SREG_DATA, Number(data))),
            SetChange::Delete => {}
        }
        Expression { name: c"dynset", attributes }
    }

    /// Counts packets and bytes.
    pub(crate) fn counter() -> Expression {
        Expression { name: c"counter", attributes: Vec::new() }
    }

    /// Ends with a verdict (`NF_ACCEPT`, `NF_DROP`).
    pub(crate) fn verdict(verdict: libc::c_int) -> Expression {
        let attributes = vec![
            (sys::NFTNL_EXPR_IMM_DREG, Number(libc::NFT_REG_VERDICT)),
            (sys::NFTNL_EXPR_IMM_VERDICT, Number(verdict)),
        ];
        Expression { name: c"immediate", attributes }
    }

    /// Goes on in another chain, and comes back.
    pub(crate) fn jump(chain: &'static CStr) -> Expression {
        Expression::in_chain(libc::NFT_JUMP, chain)
    }

    /// Goes on in another chain, and does not come back to this one.
    pub(crate) fn goto(chain: &'static CStr) -> Expression {
        Expression::in_chain(libc::NFT_GOTO, chain)
    }

    fn in_chain(verdict: libc::c_int, chain: &'static CStr) -> Expression {
        let mut expression = Expression::verdict(verdict);
        expression.attributes.push((sys::NFTNL_EXPR_IMM_CHAIN, Text(chain.to_owned())));
        expression
    }
}

impl nftnl::expr::Expression for Expression {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string, of an expression that libnftnl has known since its version 1.0.
        let pointer = unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) };
        let expression = NonNull::new(pointer).unwrap_or_else(|| std::process::abort());
        for &(attribute, ref value) in &self.attributes {
            #[expect(clippy::cast_possible_truncation, reason = "attribute indices are below 32")]
            let attribute = attribute as u16;
            // SAFETY: the expression was just allocated, and the attributes are those of its kind; what the pointers
            // point to is valid for the calls, which copy it.
            unsafe {
                match *value {
                    Number(number) => {
                        sys::nftnl_expr_set_u32(expression.as_ptr(), attribute, number.cast_unsigned());
                    }
                    Value::Long(number) => sys::nftnl_expr_set_u64(expression.as_ptr(), attribute, number),
                    Value::Byte(byte) => sys::nftnl_expr_set_u8(expression.as_ptr(), attribute, byte),
                    Bytes(ref bytes) => {
                        let length = u32::try_from(bytes.len()).unwrap_or(0);
                        sys::nftnl_expr_set(expression.as_ptr(), attribute, bytes.as_ptr().cast(), length);
                    }
                    Text(ref text) => {
                        sys::nftnl_expr_set_str(expression.as_ptr(), attribute, text.as_ptr());
                    }
                }
            }
        }
        expression
    }
}
