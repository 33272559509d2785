//! The expressions of rules: what the kernel's little machine does with a packet (nft(8), "EXPRESSIONS").
//!
//! nftnl's own expression types always use register 1, and there is none for `fib`; a concatenation takes several
//! registers. So these are built by attribute.

use std::ffi::CStr;
use std::ptr::NonNull;

use nftnl::Rule;
use nftnl_sys as sys;

/// The first data register, of 16 bytes.
pub(crate) const REGISTER_1: libc::c_int = libc::NFT_REG_1;

/// The 32-bit register that is `words` words behind the start of register 1: the next part of a concatenation.
pub(crate) const fn register(words: libc::c_int) -> libc::c_int {
    libc::NFT_REG32_00 + words
}

enum Value<'a> {
    Number(libc::c_int),
    Bytes(&'a [u8]),
    Text(&'a CStr),
}

use Value::{Bytes, Number, Text};

/// An expression: its name in the kernel, and its attributes.
pub(crate) struct Expression<'a> {
    name: &'static CStr,
    attributes: Vec<(u32, Value<'a>)>,
}

/// `NFTA_FIB_F_DADDR` and `NFT_FIB_RESULT_ADDRTYPE` (linux/netfilter/nf_tables.h).
const FIB_DESTINATION: libc::c_int = 1 << 1;
const FIB_ADDRESS_TYPE: libc::c_int = 3;

impl<'a> Expression<'a> {
    /// Loads a property of the packet (`NFT_META_…`).
    pub(crate) fn meta(key: libc::c_int, register: libc::c_int) -> Expression<'a> {
        let attributes = vec![(sys::NFTNL_EXPR_META_KEY, Number(key)), (sys::NFTNL_EXPR_META_DREG, Number(register))];
        Expression { name: c"meta", attributes }
    }

    /// Loads bytes of a header (`NFT_PAYLOAD_…`).
    pub(crate) fn payload(
        header: libc::c_int,
        offset: libc::c_int,
        length: libc::c_int,
        register: libc::c_int,
    ) -> Expression<'a> {
        let attributes = vec![
            (sys::NFTNL_EXPR_PAYLOAD_BASE, Number(header)),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, Number(offset)),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, Number(length)),
            (sys::NFTNL_EXPR_PAYLOAD_DREG, Number(register)),
        ];
        Expression { name: c"payload", attributes }
    }

    /// Goes on where register 1 equals `data`.
    pub(crate) fn equal(data: &'a [u8]) -> Expression<'a> {
        Expression::compare(libc::NFT_CMP_EQ, data)
    }

    /// Goes on where register 1 differs from `data`.
    pub(crate) fn unequal(data: &'a [u8]) -> Expression<'a> {
        Expression::compare(libc::NFT_CMP_NEQ, data)
    }

    fn compare(operator: libc::c_int, data: &'a [u8]) -> Expression<'a> {
        let attributes = vec![
            (sys::NFTNL_EXPR_CMP_SREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_CMP_OP, Number(operator)),
            (sys::NFTNL_EXPR_CMP_DATA, Bytes(data)),
        ];
        Expression { name: c"cmp", attributes }
    }

    /// Masks register 1. `zeros` has as many bytes as `mask`.
    pub(crate) fn mask(mask: &'a [u8], zeros: &'a [u8]) -> Expression<'a> {
        let length = libc::c_int::try_from(mask.len()).unwrap_or(0);
        let attributes = vec![
            (sys::NFTNL_EXPR_BITWISE_SREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_BITWISE_DREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_BITWISE_LEN, Number(length)),
            (sys::NFTNL_EXPR_BITWISE_MASK, Bytes(mask)),
            (sys::NFTNL_EXPR_BITWISE_XOR, Bytes(zeros)),
        ];
        Expression { name: c"bitwise", attributes }
    }

    /// Loads the state of the packet's tracked connection, as a bit mask in host byte order.
    pub(crate) fn connection_state() -> Expression<'a> {
        let attributes =
            vec![(sys::NFTNL_EXPR_CT_DREG, Number(REGISTER_1)), (sys::NFTNL_EXPR_CT_KEY, Number(libc::NFT_CT_STATE))];
        Expression { name: c"ct", attributes }
    }

    /// Loads the routing type of the destination address (`RTN_…` of rtnetlink(7)).
    pub(crate) fn destination_type() -> Expression<'a> {
        let attributes = vec![
            (sys::NFTNL_EXPR_FIB_DREG, Number(REGISTER_1)),
            (sys::NFTNL_EXPR_FIB_RESULT, Number(FIB_ADDRESS_TYPE)),
            (sys::NFTNL_EXPR_FIB_FLAGS, Number(FIB_DESTINATION)),
        ];
        Expression { name: c"fib", attributes }
    }

    /// Goes on where what starts in register 1 is in the set.
    pub(crate) fn lookup(set: &'a CStr) -> Expression<'a> {
        let attributes =
            vec![(sys::NFTNL_EXPR_LOOKUP_SREG, Number(REGISTER_1)), (sys::NFTNL_EXPR_LOOKUP_SET, Text(set))];
        Expression { name: c"lookup", attributes }
    }

    /// Counts packets and bytes.
    pub(crate) fn counter() -> Expression<'a> {
        Expression { name: c"counter", attributes: Vec::new() }
    }

    /// Ends with a verdict (`NF_ACCEPT`, `NF_DROP`).
    pub(crate) fn verdict(verdict: libc::c_int) -> Expression<'a> {
        let attributes = vec![
            (sys::NFTNL_EXPR_IMM_DREG, Number(libc::NFT_REG_VERDICT)),
            (sys::NFTNL_EXPR_IMM_VERDICT, Number(verdict)),
        ];
        Expression { name: c"immediate", attributes }
    }

    /// Goes on in another chain, and comes back.
    pub(crate) fn jump(chain: &'a CStr) -> Expression<'a> {
        let mut expression = Expression::verdict(libc::NFT_JUMP);
        expression.attributes.push((sys::NFTNL_EXPR_IMM_CHAIN, Text(chain)));
        expression
    }
}

impl nftnl::expr::Expression for Expression<'_> {
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
                    Bytes(bytes) => {
                        let length = u32::try_from(bytes.len()).unwrap_or(0);
                        sys::nftnl_expr_set(expression.as_ptr(), attribute, bytes.as_ptr().cast(), length);
                    }
                    Text(text) => {
                        sys::nftnl_expr_set_str(expression.as_ptr(), attribute, text.as_ptr());
                    }
                }
            }
        }
        expression
    }
}
