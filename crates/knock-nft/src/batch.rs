//! A transaction in the making: messages that the kernel carries out all together or not at all.

use nftnl::{MsgType, NlMsg, nft_nlmsg_maxsize};

use crate::attribute::low_half;
use crate::error::Operation;

/// What the buffer may keep allocated from one transaction to the next, in 32-bit words: a megabyte.
const KEPT_WORDS: usize = 1 << 18;

/// One transaction, in one buffer, so that one `send` carries it: the kernel takes a batch from a single datagram.
///
/// `nftnl::Batch` is not used because it numbers each batch from 1, which makes a late acknowledgement of one batch look
/// like one of the next, and hands out several buffers.
pub(crate) struct Batch {
    /// 32-bit words, because netlink wants the alignment.
    words: Vec<u32>,
    /// The sequence number of the begin message; the message of `operations[i]` has the one `i + 1` above it.
    first: u32,
    operations: Vec<Operation>,
    /// Where the last message starts.
    last: usize,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch { words: Vec::new(), first: 0, operations: Vec::new(), last: 0 }
    }

    /// Starts over, with sequence numbers from `first` on.
    pub(crate) fn begin(&mut self, first: u32) {
        self.words.clear();
        self.words.shrink_to(KEPT_WORDS);
        self.operations.clear();
        self.operations.shrink_to(KEPT_WORDS);
        self.first = first;
        self.mark(libc::NFNL_MSG_BATCH_BEGIN, first);
    }

    /// Appends a message.
    pub(crate) fn push(&mut self, operation: Operation, message: &impl NlMsg, kind: MsgType) {
        self.operations.push(operation);
        let sequence = self.next_sequence().wrapping_sub(1);
        let start = self.words.len();
        self.last = start;
        // `nft_nlmsg_maxsize` bytes are what `NlMsg::write` asks for.
        self.words.reserve(nft_nlmsg_maxsize() as usize / 4 + 1);
        let buffer = self.words.spare_capacity_mut().as_mut_ptr();
        // SAFETY: the spare capacity has the room that the trait demands, aligned to four bytes. What was written starts
        // with its length in bytes, whose padding to four libmnl writes too, so that many words are initialised.
        unsafe {
            message.write(buffer.cast(), sequence, kind);
            let bytes = buffer.cast::<u32>().read() as usize;
            self.words.set_len(start + bytes.div_ceil(4));
        }
        self.set_acknowledged(start, false);
    }

    /// Appends the end. Only the last operation is acknowledged, for the kernel reports each failure unasked.
    pub(crate) fn finish(&mut self) -> &[u32] {
        if !self.operations.is_empty() {
            self.set_acknowledged(self.last, true);
        }
        self.mark(libc::NFNL_MSG_BATCH_END, self.next_sequence());
        &self.words
    }

    /// The number after that of the last message.
    pub(crate) fn next_sequence(&self) -> u32 {
        let operations = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        self.first.wrapping_add(operations).wrapping_add(1)
    }

    /// The sequence number of the message that is acknowledged.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.next_sequence().wrapping_sub(1)
    }

    /// The place of a message among the operations; `None`: not one of this batch.
    /// An error for the begin message is one of the transaction as a whole: [`Operation::Begin`].
    pub(crate) fn find(&self, sequence: u32) -> Option<(Option<usize>, Operation)> {
        let distance = sequence.wrapping_sub(self.first) as usize;
        match distance.checked_sub(1) {
            None => Some((None, Operation::Begin)),
            Some(index) => self.operations.get(index).map(|&operation| (Some(index), operation)),
        }
    }

    /// A begin or end message (`struct nlmsghdr`, `struct nfgenmsg`).
    fn mark(&mut self, kind: libc::c_int, sequence: u32) {
        let [low, high] = low_half(kind).to_ne_bytes();
        let [flags_low, flags_high] = low_half(libc::NLM_F_REQUEST).to_ne_bytes();
        let [subsystem_high, subsystem_low] = low_half(libc::NFNL_SUBSYS_NFTABLES).to_be_bytes();
        self.words.extend_from_slice(&[
            20,
            u32::from_ne_bytes([low, high, flags_low, flags_high]),
            sequence,
            0,
            u32::from_ne_bytes([0, 0, subsystem_high, subsystem_low]),
        ]);
    }

    /// Sets or clears NLM_F_ACK in the message that starts at that word.
    fn set_acknowledged(&mut self, start: usize, wanted: bool) {
        if let Some(word) = self.words.get_mut(start + 1) {
            let [low, high, flags_low, flags_high] = word.to_ne_bytes();
            let flags = u16::from_ne_bytes([flags_low, flags_high]);
            let acknowledge = low_half(libc::NLM_F_ACK);
            let flags = if wanted { flags | acknowledge } else { flags & !acknowledge };
            let [flags_low, flags_high] = flags.to_ne_bytes();
            *word = u32::from_ne_bytes([low, high, flags_low, flags_high]);
        }
    }
}
