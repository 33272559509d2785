//! From a specification to a program.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use knock_proto::{Protocol, TcpFlags};

use super::assembler::{Assembler, Instruction, Label, op};
use super::ports::PortSet;
use super::{FilterSpec, TRANSPORT_BYTES};

/// Ancillary loads (`linux/filter.h`): `SKF_AD_OFF` is -0x1000.
const SKF_AD_PROTOCOL: u32 = 0xffff_f000;
const SKF_AD_PKTTYPE: u32 = 0xffff_f004;
const SKF_AD_IFINDEX: u32 = 0xffff_f000 + 8;
const SKF_AD_VLAN_TAG: u32 = 0xffff_f000 + 44;
const SKF_AD_VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;

/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;

/// The identifier in a VLAN tag; 0 is the priority tag, which belongs to no VLAN (IEEE 802.1Q).
const VLAN_ID: u32 = 0x0fff;

const IPV6_HEADER: u32 = 40;
/// IPv6 extension headers (RFC 8200, section 4).
const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const DESTINATION: u32 = 60;

/// How many extension headers the program walks. Classic BPF cannot loop, and no honest packet has more.
const EXTENSION_HEADERS: usize = 4;
/// Keep the whole packet.
const WHOLE: u32 = 0xffff;
/// The scratch cell for the next header's type.
const NEXT_HEADER: u32 = 0;

/// The port sets to search: TCP by flags, UDP without, and UDP with the lengths of what is not cut.
#[derive(Clone, Debug)]
struct Sets {
    tcp: Vec<(TcpFlags, PortSet)>,
    udp: PortSet,
    whole: Option<(PortSet, RangeInclusive<u16>)>,
}

impl Sets {
    fn new(spec: &FilterSpec) -> Sets {
        let mut tcp: BTreeMap<TcpFlags, BTreeSet<u16>> = BTreeMap::new();
        let mut udp = BTreeSet::new();
        for class in &spec.classes {
            for knock in &class.ports {
                match knock.protocol {
                    Protocol::Udp => {
                        udp.insert(knock.port);
                    }
                    // Flags that must be both set and clear match nothing; the masked comparison would.
                    Protocol::Tcp if class.tcp_flags.set & class.tcp_flags.clear != 0 => {}
                    Protocol::Tcp => {
                        tcp.entry(class.tcp_flags).or_default().insert(knock.port);
                    }
                }
            }
        }
        Sets {
            tcp: tcp.into_iter().map(|(flags, ports)| (flags, PortSet::new(ports))).collect(),
            udp: PortSet::new(udp),
            whole: spec.whole.as_ref().map(|whole| (PortSet::new(whole.ports.iter().copied()), whole.lengths.clone())),
        }
    }

    fn is_empty(&self) -> bool {
        self.udp.is_empty()
            && self.tcp.iter().all(|(_, ports)| ports.is_empty())
            && self.whole.as_ref().is_none_or(|(ports, _)| ports.is_empty())
    }

    /// All TCP classes as one: the flags that all of them demand. All ports from the lowest to the highest one.
    fn coarse(&self) -> Sets {
        let flags = |of: fn(&TcpFlags) -> u8| self.tcp.iter().fold(0xff, |bits, (flags, _)| bits & of(flags));
        let flags = TcpFlags { set: flags(|flags| flags.set), clear: flags(|flags| flags.clear) };
        let tcp = PortSet::cover(self.tcp.iter().map(|(_, ports)| ports));
        let tcp = if tcp.is_empty() { Vec::new() } else { vec![(flags, tcp)] };
        let whole = self.whole.as_ref().map(|(ports, lengths)| (PortSet::cover([ports]), lengths.clone()));
        Sets { tcp, udp: PortSet::cover([&self.udp]), whole }
    }
}

/// The program that accepts what `spec` says and nothing else.
pub(super) fn exact(spec: &FilterSpec) -> Vec<Instruction> {
    assemble(&Sets::new(spec), spec.interfaces.as_deref())
}

/// A short program, whatever `spec` says, that accepts that and more.
pub(super) fn coarse(spec: &FilterSpec) -> Vec<Instruction> {
    assemble(&Sets::new(spec).coarse(), spec.interfaces.as_deref())
}

/// The program of no ports.
pub(super) fn reject_all() -> Vec<Instruction> {
    let mut asm = Assembler::default();
    asm.push(op::RET_K, 0);
    asm.finish()
}

/// Written from the last instruction to the first; read the blocks from the bottom up.
fn assemble(sets: &Sets, interfaces: Option<&[u32]>) -> Vec<Instruction> {
    if sets.is_empty() || interfaces.is_some_and(<[u32]>::is_empty) {
        return reject_all();
    }
    let mut asm = Assembler::default();
    let reject = asm.push(op::RET_K, 0);
    let whole = asm.push(op::RET_K, WHOLE);

    // X is where the transport header starts.
    asm.push(op::RET_A, 0);
    asm.push(op::ADD_K, TRANSPORT_BYTES);
    let accept = asm.push(op::TXA, 0);

    let mut udp = port_search(&mut asm, &sets.udp, accept, reject);
    if let Some((ports, lengths)) = &sets.whole {
        let at_most = asm.branch(op::JGT_K, u32::from(*lengths.end()), udp, whole);
        asm.branch(op::JGE_K, u32::from(*lengths.start()), at_most, udp);
        let length = asm.push(op::LD_H_IND, 4);
        udp = port_search(&mut asm, ports, length, udp);
    }
    let mut tcp = reject;
    for (flags, ports) in sets.tcp.iter().rev() {
        let search = port_search(&mut asm, ports, accept, tcp);
        asm.branch(op::JEQ_K, u32::from(flags.set), search, tcp);
        asm.push(op::AND_K, u32::from(flags.set | flags.clear));
        tcp = asm.push(op::LD_B_IND, 13);
    }

    let targets = Targets { tcp, udp, reject };
    let v6 = ipv6(&mut asm, &targets, whole);
    let v4 = ipv4(&mut asm, &targets);
    let not_v4 = asm.branch(op::JEQ_K, ETH_P_IPV6, v6, reject);
    asm.branch(op::JEQ_K, ETH_P_IP, v4, not_v4);
    let protocol = asm.push(op::LD_W_ABS, SKF_AD_PROTOCOL);
    asm.branch(op::JSET_K, VLAN_ID, reject, protocol);
    let tagged = asm.push(op::LD_W_ABS, SKF_AD_VLAN_TAG);
    asm.branch(op::JEQ_K, 0, protocol, tagged);
    let ours = asm.push(op::LD_W_ABS, SKF_AD_VLAN_TAG_PRESENT);
    asm.branch(op::JEQ_K, PACKET_HOST, ours, reject);
    let first = asm.push(op::LD_W_ABS, SKF_AD_PKTTYPE);
    if let Some(interfaces) = interfaces {
        interfaces.iter().fold(reject, |other, &index| asm.branch(op::JEQ_K, index, first, other));
        asm.push(op::LD_W_ABS, SKF_AD_IFINDEX);
    }
    asm.finish()
}

/// Where a transport header leads.
struct Targets {
    tcp: Label,
    udp: Label,
    reject: Label,
}

/// Loads the destination port and looks it up by halving.
fn port_search(asm: &mut Assembler, ports: &PortSet, accept: Label, reject: Label) -> Label {
    let boundaries = ports.boundaries();
    if boundaries.is_empty() {
        return reject;
    }
    let first = halve(asm, &boundaries, false, accept, reject);
    asm.go_on_at(first);
    asm.push(op::LD_H_IND, 2)
}

/// `inside`: whether ports below the first of the boundaries belong to the set.
fn halve(asm: &mut Assembler, boundaries: &[u32], inside: bool, accept: Label, reject: Label) -> Label {
    let middle = boundaries.len() / 2;
    let Some(&boundary) = boundaries.get(middle) else {
        return if inside { accept } else { reject };
    };
    let inside_above = inside ^ middle.is_multiple_of(2);
    let above = halve(asm, &boundaries[middle + 1..], inside_above, accept, reject);
    let below = halve(asm, &boundaries[..middle], inside, accept, reject);
    asm.branch(op::JGE_K, boundary, above, below)
}

/// Branches on the transport protocol in A.
fn transport(asm: &mut Assembler, targets: &Targets, other: Label) -> Label {
    let not_tcp = asm.branch(op::JEQ_K, u32::from(Protocol::Udp.number()), targets.udp, other);
    asm.branch(op::JEQ_K, u32::from(Protocol::Tcp.number()), targets.tcp, not_tcp)
}

/// IPv4 (RFC 791).
fn ipv4(asm: &mut Assembler, targets: &Targets) -> Label {
    transport(asm, targets, targets.reject);
    asm.push(op::LD_B_ABS, 9);
    let protocol = asm.push(op::LDX_MSH, 0);
    asm.branch(op::JGE_X, 0, protocol, targets.reject);
    asm.push(op::LD_LEN, 0);
    asm.push(op::TAX, 0);
    let length = asm.push(op::LD_H_ABS, 2);
    asm.branch(op::JSET_K, 0x1fff, targets.reject, length);
    let fragment = asm.push(op::LD_H_ABS, 6);
    // Version 4 and a header of 5 to 15 words: 0x45 to 0x4f.
    let at_most = asm.branch(op::JGT_K, 0x4f, targets.reject, fragment);
    asm.branch(op::JGE_K, 0x45, at_most, targets.reject);
    asm.push(op::LD_B_ABS, 0)
}

/// IPv6 (RFC 8200).
fn ipv6(asm: &mut Assembler, targets: &Targets, hand_over: Label) -> Label {
    let mut step = extension_headers(asm, hand_over, hand_over, targets.reject);
    step = transport(asm, targets, step);
    for _ in 0..EXTENSION_HEADERS {
        let (options, fragment) = skip_header(asm, step, targets.reject);
        let other = extension_headers(asm, options, fragment, targets.reject);
        step = transport(asm, targets, other);
    }
    asm.push(op::LD_B_ABS, 6);
    let long_enough = asm.push(op::LDX_IMM, IPV6_HEADER);
    asm.branch(op::JGE_X, 0, long_enough, targets.reject);
    asm.push(op::LD_LEN, 0);
    asm.push(op::TAX, 0);
    asm.push(op::ADD_K, IPV6_HEADER);
    let length = asm.push(op::LD_H_ABS, 4);
    asm.branch(op::JEQ_K, 0x60, length, targets.reject);
    asm.push(op::AND_K, 0xf0);
    asm.push(op::LD_B_ABS, 0)
}

/// Branches on the extension header in A.
fn extension_headers(asm: &mut Assembler, options: Label, fragment: Label, reject: Label) -> Label {
    let mut other = asm.branch(op::JEQ_K, FRAGMENT, fragment, reject);
    for kind in [DESTINATION, ROUTING, HOP_BY_HOP] {
        other = asm.branch(op::JEQ_K, kind, options, other);
    }
    other
}

/// Moves X over the extension header that starts there and puts the type of the next one into A: the entries for a
/// header that has a length, and for the fragment header, which is 8 bytes and must be the first fragment's.
fn skip_header(asm: &mut Assembler, next: Label, reject: Label) -> (Label, Label) {
    asm.go_on_at(next);
    asm.push(op::LD_MEM, NEXT_HEADER);
    asm.push(op::TAX, 0);
    let advance = asm.push(op::ADD_X, 0);

    asm.push(op::LD_IMM, 8);
    asm.push(op::ST, NEXT_HEADER);
    let first_fragment = asm.push(op::LD_B_IND, 0);
    asm.branch(op::JSET_K, 0xfff8, reject, first_fragment);
    let fragment = asm.push(op::LD_H_IND, 2);

    asm.go_on_at(advance);
    asm.push(op::ADD_K, 8);
    asm.push(op::LSH_K, 3);
    asm.push(op::LD_B_IND, 1);
    asm.push(op::ST, NEXT_HEADER);
    let options = asm.push(op::LD_B_IND, 0);
    (options, fragment)
}
