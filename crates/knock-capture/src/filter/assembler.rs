//! Classic BPF instructions, assembled from the last to the first.
//!
//! Jumps of classic BPF only go forward, so a program that is written backwards knows every target already. A
//! conditional jump reaches 255 instructions; where its target is farther an unconditional jump, which reaches
//! everything, is put between.

use std::collections::HashMap;

/// One instruction, laid out as the kernel's `struct sock_filter` (`linux/filter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Operation and addressing mode.
    pub code: u16,
    /// How many instructions to skip where the condition holds.
    pub jt: u8,
    /// How many instructions to skip where it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The operations that the filter uses (`linux/bpf_common.h`). A is the accumulator, X the index register.
pub(crate) mod op {
    /// A = the 32-bit word at k.
    pub(crate) const LD_W_ABS: u16 = 0x20;
    /// A = the 16-bit word at k.
    pub(crate) const LD_H_ABS: u16 = 0x28;
    /// A = the byte at k.
    pub(crate) const LD_B_ABS: u16 = 0x30;
    /// A = the 16-bit word at X + k.
    pub(crate) const LD_H_IND: u16 = 0x48;
    /// A = the byte at X + k.
    pub(crate) const LD_B_IND: u16 = 0x50;
    /// A = k.
    pub(crate) const LD_IMM: u16 = 0x00;
    /// A = scratch cell k.
    pub(crate) const LD_MEM: u16 = 0x60;
    /// A = the packet's length.
    pub(crate) const LD_LEN: u16 = 0x80;
    /// X = k.
    pub(crate) const LDX_IMM: u16 = 0x01;
    /// X = four times the low nibble of the byte at k: the length of an IPv4 header.
    pub(crate) const LDX_MSH: u16 = 0xb1;
    /// Scratch cell k = A.
    pub(crate) const ST: u16 = 0x02;
    /// A += k.
    pub(crate) const ADD_K: u16 = 0x04;
    /// A += X.
    pub(crate) const ADD_X: u16 = 0x0c;
    /// A <<= k.
    pub(crate) const LSH_K: u16 = 0x64;
    /// A &= k.
    pub(crate) const AND_K: u16 = 0x54;
    /// X = A.
    pub(crate) const TAX: u16 = 0x07;
    /// A = X.
    pub(crate) const TXA: u16 = 0x87;
    /// Jump over k instructions.
    pub(crate) const JA: u16 = 0x05;
    /// Whether A = k.
    pub(crate) const JEQ_K: u16 = 0x15;
    /// Whether A > k.
    pub(crate) const JGT_K: u16 = 0x25;
    /// Whether A >= k.
    pub(crate) const JGE_K: u16 = 0x35;
    /// Whether A >= X.
    pub(crate) const JGE_X: u16 = 0x3d;
    /// Whether A & k is not 0.
    pub(crate) const JSET_K: u16 = 0x45;
    /// Keep k bytes of the packet; 0 drops it.
    pub(crate) const RET_K: u16 = 0x06;
    /// Keep A bytes of the packet.
    pub(crate) const RET_A: u16 = 0x16;
}

/// A place in the program, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Label(usize);

/// A program in the making, its last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest unconditional jump to a label, for conditional jumps that do not reach the label itself.
    trampolines: HashMap<Label, Label>,
}

impl Assembler {
    /// Puts an instruction in front that goes on with the one which was put there before it.
    pub(super) fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt: 0, jf: 0, k });
        Label(self.reversed.len() - 1)
    }

    /// Makes what is put in front next go on at `target`.
    pub(super) fn go_on_at(&mut self, target: Label) -> Label {
        let distance = self.reversed.len() - target.0 - 1;
        if distance == 0 {
            return target;
        }
        self.push(op::JA, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    /// Puts a conditional jump in front.
    pub(super) fn branch(&mut self, code: u16, k: u32, holds: Label, fails: Label) -> Label {
        // Making a trampoline for one target moves the other one away: look again until both are in reach. Two
        // trampolines in front of each other always are, so this ends after three rounds.
        loop {
            match (self.reach(holds), self.reach(fails)) {
                (Some(jt), Some(jf)) => {
                    self.reversed.push(Instruction { code, jt, jf, k });
                    return Label(self.reversed.len() - 1);
                }
                (None, _) => self.trampoline(holds),
                (_, None) => self.trampoline(fails),
            }
        }
    }

    /// The program, first instruction first.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn reach(&self, target: Label) -> Option<u8> {
        let distance = |label: Label| u8::try_from(self.reversed.len() - label.0 - 1).ok();
        distance(target).or_else(|| self.trampolines.get(&target).copied().and_then(distance))
    }

    fn trampoline(&mut self, target: Label) {
        let distance = self.reversed.len() - target.0 - 1;
        let at = self.push(op::JA, u32::try_from(distance).unwrap_or(u32::MAX));
        self.trampolines.insert(target, at);
    }
}
