//! The messages for which nftnl's safe types lack something: tables with flags, sets with flags, elements with a
//! timeout.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use nftnl::{MsgType, NlMsg};
use nftnl_sys as sys;

use crate::attribute::{low_half, subsystem_type};

/// Of `enum nf_tables_msg_types` (linux/netfilter/nf_tables.h; Linux 6.3).
const NFT_MSG_DESTROYSETELEM: libc::c_int = 30;

/// Ends the process where the allocation of a small object failed, as the standard library does.
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}

/// Writes the header of an nf_tables message to `buffer`.
///
/// # Safety
/// `buffer` must have room for a message and be aligned to four bytes.
unsafe fn header(
    buffer: *mut c_void,
    message: libc::c_int,
    family: u8,
    flags: libc::c_int,
    sequence: u32,
) -> *mut libc::nlmsghdr {
    let (kind, flags) = (subsystem_type(message) & 0xff, low_half(flags));
    // SAFETY: the caller vouches for the buffer; nothing else is read.
    unsafe { sys::nftnl_nlmsg_build_hdr(buffer.cast::<c_char>(), kind, family.into(), flags, sequence) }
}

/// The index of a libnftnl attribute.
#[expect(clippy::cast_possible_truncation, reason = "the indices are below 32")]
const fn index(attribute: u32) -> u16 {
    attribute as u16
}

/// The length of a slice that is at most a few hundred bytes long.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(0)
}

/// A table with flags and userdata (`nftnl::Table` has neither).
pub(crate) struct TableMessage {
    table: NonNull<sys::nftnl_table>,
    family: u8,
    exclusive: bool,
}

impl TableMessage {
    /// With `exclusive`, adding fails with EEXIST where there is a table of that name.
    pub(crate) fn new(name: &CStr, family: u8, flags: u32, userdata: &[u8], exclusive: bool) -> TableMessage {
        // SAFETY: no arguments.
        let table = allocated(unsafe { sys::nftnl_table_alloc() });
        // SAFETY: the table was just allocated; name and userdata are valid for the calls, which copy them.
        unsafe {
            sys::nftnl_table_set_u32(table.as_ptr(), index(sys::NFTNL_TABLE_FAMILY), family.into());
            sys::nftnl_table_set_str(table.as_ptr(), index(sys::NFTNL_TABLE_NAME), name.as_ptr());
            sys::nftnl_table_set_u32(table.as_ptr(), index(sys::NFTNL_TABLE_FLAGS), flags);
            if !userdata.is_empty() {
                let attribute = index(sys::NFTNL_TABLE_USERDATA);
                sys::nftnl_table_set_data(table.as_ptr(), attribute, userdata.as_ptr().cast(), length(userdata));
            }
        }
        TableMessage { table, family, exclusive }
    }
}

// SAFETY: a name and a userdata record of at most 255 bytes each stay far below the largest message.
unsafe impl NlMsg for TableMessage {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add if self.exclusive => (libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            MsgType::Add => (libc::NFT_MSG_NEWTABLE, 0),
            MsgType::Del => (libc::NFT_MSG_DELTABLE, 0),
        };
        // SAFETY: the buffer is the caller's; the table is ours and alive.
        unsafe {
            sys::nftnl_table_nlmsg_build_payload(
                header(buffer, message, self.family, flags, sequence),
                self.table.as_ptr(),
            )
        }
    }
}

impl Drop for TableMessage {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` and freed nowhere else.
        unsafe { sys::nftnl_table_free(self.table.as_ptr()) }
    }
}

/// A set, with or without elements.
pub(crate) struct SetMessage {
    set: NonNull<sys::nftnl_set>,
    family: u8,
}

/// What a set is, beyond its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetKind {
    /// A number that is unique within the transaction; the kernel wants one.
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_length: u32,
    /// The length of each field of a concatenation of intervals, in bytes; empty otherwise.
    pub(crate) fields: &'static [u8],
    /// The most elements; 0: any number.
    pub(crate) size: u32,
    /// Of a map, the type of the values. They have four bytes.
    pub(crate) data_type: Option<u32>,
}

impl SetMessage {
    fn named(family: u8, table: &CStr, name: &CStr) -> SetMessage {
        // SAFETY: no arguments.
        let set = allocated(unsafe { sys::nftnl_set_alloc() });
        // SAFETY: the set was just allocated; the names are valid for the calls, which copy them.
        unsafe {
            sys::nftnl_set_set_u32(set.as_ptr(), index(sys::NFTNL_SET_FAMILY), family.into());
            sys::nftnl_set_set_str(set.as_ptr(), index(sys::NFTNL_SET_TABLE), table.as_ptr());
            sys::nftnl_set_set_str(set.as_ptr(), index(sys::NFTNL_SET_NAME), name.as_ptr());
        }
        SetMessage { set, family }
    }

    /// A set to delete.
    pub(crate) fn to_delete(family: u8, table: &CStr, name: &CStr) -> SetMessage {
        SetMessage::named(family, table, name)
    }

    /// A set to add.
    pub(crate) fn new(family: u8, table: &CStr, name: &CStr, kind: SetKind) -> SetMessage {
        let message = SetMessage::named(family, table, name);
        let set = message.set.as_ptr();
        // SAFETY: the set is allocated; the lengths of the fields are valid for the call, which copies them.
        unsafe {
            sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_ID), kind.id);
            sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_FLAGS), kind.flags);
            sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_KEY_TYPE), kind.key_type);
            sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_KEY_LEN), kind.key_length);
            if kind.size > 0 {
                sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_DESC_SIZE), kind.size);
            }
            if let Some(data_type) = kind.data_type {
                sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_DATA_TYPE), data_type);
                sys::nftnl_set_set_u32(set, index(sys::NFTNL_SET_DATA_LEN), 4);
            }
            if !kind.fields.is_empty() {
                let (data, length) = (kind.fields.as_ptr().cast(), length(kind.fields));
                sys::nftnl_set_set_data(set, index(sys::NFTNL_SET_DESC_CONCAT), data, length);
            }
        }
        message
    }
}

// SAFETY: two names of at most 255 bytes and a few numbers stay far below the largest message.
unsafe impl NlMsg for SetMessage {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add => (libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            MsgType::Del => (libc::NFT_MSG_DELSET, 0),
        };
        // SAFETY: the buffer is the caller's; the set is ours and alive.
        unsafe {
            sys::nftnl_set_nlmsg_build_payload(header(buffer, message, self.family, flags, sequence), self.set.as_ptr())
        }
    }
}

impl Drop for SetMessage {
    fn drop(&mut self) {
        // SAFETY: allocated in `named` and freed nowhere else, with the elements that it owns.
        unsafe { sys::nftnl_set_free(self.set.as_ptr()) }
    }
}

/// Elements of one set, to add or to delete (`nftnl::set::SetElemsMsg` knows no timeout and refuses what exists).
/// Deleted without any element: the set is emptied.
pub(crate) struct ElementsMessage {
    set: SetMessage,
    count: usize,
}

/// The timeout of an element, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Timeout {
    pub(crate) whole: u64,
    /// Where it is less than the whole.
    pub(crate) remaining: u64,
}

impl ElementsMessage {
    /// The most elements in one message. Each takes at most 24 bytes of key, 8 each of timeout and expiration, 130 of
    /// comment, and 28 of headers; 250 stay below the 65,535 bytes of their common attribute.
    pub(crate) const CAPACITY: usize = 250;

    pub(crate) fn new(family: u8, table: &CStr, set: &CStr) -> ElementsMessage {
        ElementsMessage { set: SetMessage::named(family, table, set), count: 0 }
    }

    /// Whether the next element belongs into another message.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= ElementsMessage::CAPACITY
    }

    /// Appends an element. `userdata` is a record of [`crate::element::comment_record`], or empty.
    pub(crate) fn push(&mut self, key: &[u8], timeout: Option<Timeout>, userdata: &[u8]) {
        self.push_element(key, None, None, timeout, userdata);
    }

    /// Appends the interval from `first` to `last`, both of it.
    pub(crate) fn push_interval(&mut self, first: &[u8], last: &[u8]) {
        self.push_element(first, Some(last), None, None, &[]);
    }

    /// Appends an element of a map.
    pub(crate) fn push_mapped(&mut self, key: &[u8], data: [u8; 4], timeout: Timeout) {
        self.push_element(key, None, Some(data), Some(timeout), &[]);
    }

    fn push_element(
        &mut self,
        key: &[u8],
        key_end: Option<&[u8]>,
        data: Option<[u8; 4]>,
        timeout: Option<Timeout>,
        userdata: &[u8],
    ) {
        let key_length = key.len() + key_end.map_or(0, <[u8]>::len);
        debug_assert!(!self.is_full() && key_length <= 24 && userdata.len() <= 130);
        self.count += 1;
        // SAFETY: no arguments.
        let element = allocated(unsafe { sys::nftnl_set_elem_alloc() }).as_ptr();
        // SAFETY: the element was just allocated; keys and userdata are valid for the calls, which copy them; the set
        // takes the element over and frees it.
        unsafe {
            sys::nftnl_set_elem_set(element, index(sys::NFTNL_SET_ELEM_KEY), key.as_ptr().cast(), length(key));
            if let Some(end) = key_end {
                sys::nftnl_set_elem_set(element, index(sys::NFTNL_SET_ELEM_KEY_END), end.as_ptr().cast(), length(end));
            }
            if let Some(data) = data {
                sys::nftnl_set_elem_set(element, index(sys::NFTNL_SET_ELEM_DATA), data.as_ptr().cast(), length(&data));
            }
            if let Some(timeout) = timeout {
                sys::nftnl_set_elem_set_u64(element, index(sys::NFTNL_SET_ELEM_TIMEOUT), timeout.whole);
                if timeout.remaining < timeout.whole {
                    sys::nftnl_set_elem_set_u64(element, index(sys::NFTNL_SET_ELEM_EXPIRATION), timeout.remaining);
                }
            }
            if !userdata.is_empty() {
                let attribute = index(sys::NFTNL_SET_ELEM_USERDATA);
                sys::nftnl_set_elem_set(element, attribute, userdata.as_ptr().cast(), length(userdata));
            }
            sys::nftnl_set_elem_add(self.set.set.as_ptr(), element);
        }
    }
}

// SAFETY: `CAPACITY` keeps the elements within one attribute, and that within the largest message.
unsafe impl NlMsg for ElementsMessage {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let (message, flags) = match kind {
            // Without NLM_F_EXCL: an element that exists is no error.
            MsgType::Add => (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE),
            MsgType::Del => (libc::NFT_MSG_DELSETELEM, 0),
        };
        // SAFETY: the buffer is the caller's.
        unsafe { self.write_as(buffer, message, flags, sequence) }
    }
}

impl ElementsMessage {
    /// # Safety
    /// `buffer` must have room for the largest message and be aligned to four bytes.
    unsafe fn write_as(&self, buffer: *mut c_void, message: libc::c_int, flags: libc::c_int, sequence: u32) {
        let set = self.set.set.as_ptr();
        // SAFETY: the caller vouches for the buffer; the set is ours and alive, and only read.
        unsafe {
            sys::nftnl_set_elems_nlmsg_build_payload(header(buffer, message, self.set.family, flags, sequence), set)
        }
    }
}

/// Elements to delete that may be missing: no error. The kernel answers with those that there were (`NLM_F_ECHO`).
pub(crate) struct Destroyed(pub(crate) ElementsMessage);

// SAFETY: as for `ElementsMessage`.
unsafe impl NlMsg for Destroyed {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _: MsgType) {
        // SAFETY: the buffer is the caller's.
        unsafe { self.0.write_as(buffer, NFT_MSG_DESTROYSETELEM, libc::NLM_F_ECHO, sequence) }
    }
}
