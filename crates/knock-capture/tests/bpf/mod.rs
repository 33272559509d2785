//! An interpreter of classic BPF, after the instruction set in the kernel's `Documentation/networking/filter.rst`.

use knock_capture::Program;

pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;

/// A packet as the kernel shows it to the filter of a cooked socket.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// `PACKET_HOST` is 0.
    pub(crate) kind: u32,
    /// The index of the interface on which it arrives.
    pub(crate) interface: u32,
    pub(crate) tag: Option<u16>,
    pub(crate) protocol: u16,
    /// From the IP header on.
    pub(crate) data: Vec<u8>,
}

impl Packet {
    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        self.data.get(at).copied()
    }

    pub(crate) fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    fn word(&self, at: u32) -> Option<u32> {
        match at.wrapping_sub(0xffff_f000) {
            0 => Some(self.protocol.into()),
            4 => Some(self.kind),
            8 => Some(self.interface),
            44 => Some(self.tag.unwrap_or(0).into()),
            48 => Some(self.tag.is_some().into()),
            _ => {
                let at = usize::try_from(at).ok()?;
                Some(u32::from(self.half(at)?) << 16 | u32::from(self.half(at + 2)?))
            }
        }
    }
}

pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    /// How many instructions were executed.
    pub(crate) steps: usize,
}

/// Runs the program; a load beyond the packet's end drops it, as in the kernel. Panics where the kernel would have
/// refused the program.
pub(crate) fn run(program: &Program, packet: &Packet) -> Outcome {
    let code = program.instructions();
    assert!((1..=4096).contains(&code.len()));
    let (mut a, mut x, mut pc, mut steps) = (0u32, 0u32, 0usize, 0);
    let mut memory = [None; 16];
    let verdict = loop {
        let at = code.get(pc).expect("the program ends in a return");
        steps += 1;
        pc += 1;
        let index = |offset: u32| usize::try_from(x.wrapping_add(offset)).expect("64 bits");
        let k = usize::try_from(at.k).expect("64 bits");
        let loaded = match at.code {
            0x20 => packet.word(at.k),
            0x28 => packet.half(k).map(u32::from),
            0x30 => packet.byte(k).map(u32::from),
            0x48 => packet.half(index(at.k)).map(u32::from),
            0x50 => packet.byte(index(at.k)).map(u32::from),
            0x00 => Some(at.k),
            0x60 => Some(memory[k].expect("a scratch cell that was written")),
            0x80 => Some(u32::try_from(packet.data.len()).expect("a short packet")),
            _ => Some(a),
        };
        let Some(loaded) = loaded else { break 0 };
        a = loaded;
        let mut jump = |holds: bool| pc += usize::from(if holds { at.jt } else { at.jf });
        match at.code {
            0x20 | 0x28 | 0x30 | 0x48 | 0x50 | 0x00 | 0x60 | 0x80 => {}
            0x01 => x = at.k,
            0xb1 => match packet.byte(k) {
                Some(byte) => x = u32::from(byte & 0xf) * 4,
                None => break 0,
            },
            0x02 => memory[k] = Some(a),
            0x04 => a = a.wrapping_add(at.k),
            0x0c => a = a.wrapping_add(x),
            0x54 => a &= at.k,
            0x64 => a = a.checked_shl(at.k).expect("a shift below 32"),
            0x07 => x = a,
            0x87 => a = x,
            0x05 => pc += k,
            0x15 => jump(a == at.k),
            0x25 => jump(a > at.k),
            0x35 => jump(a >= at.k),
            0x3d => jump(a >= x),
            0x45 => jump(a & at.k != 0),
            0x06 => break at.k,
            0x16 => break a,
            other => panic!("unknown instruction {other:#x}"),
        }
    };
    Outcome { verdict, steps }
}
