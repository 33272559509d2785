//! Ways in which a first packet comes in pieces (RFC 8200, sections 4 and 4.5; RFC 791, section 3.2).

use knock_testkit::Packet;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// What extension headers of eight bytes come before the fragment header.
const BEFORE: [&[u8]; 6] = [
    &[],
    &[HOP_BY_HOP],
    &[DESTINATION_OPTIONS],
    &[ROUTING],
    &[HOP_BY_HOP, ROUTING],
    &[HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING],
];
/// What extension headers are fragmented with the segment: type and length in bytes.
const INSIDE: [&[(u8, usize)]; 11] = [
    &[],
    &[(DESTINATION_OPTIONS, 8)],
    &[(DESTINATION_OPTIONS, 24)],
    &[(DESTINATION_OPTIONS, 8), (DESTINATION_OPTIONS, 8)],
    &[(ROUTING, 8)],
    &[(ROUTING, 8), (DESTINATION_OPTIONS, 8)],
    &[(HOP_BY_HOP, 8)],
    &[(FRAGMENT, 8)],
    &[(FRAGMENT, 8), (DESTINATION_OPTIONS, 8)],
    &[(AUTHENTICATION, 16)],
    &[(DESTINATION_OPTIONS, 8), (AUTHENTICATION, 16)],
];
/// In which order two and three pieces are sent.
const TWO: [&[usize]; 2] = [&[0, 1], &[1, 0]];
const THREE: [&[usize]; 3] = [&[0, 1, 2], &[2, 1, 0], &[1, 0, 2]];

/// A way of sending a packet in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    before: Vec<u8>,
    inside: Vec<(u8, usize)>,
    /// Where it is cut, in bytes from the start of what is fragmented.
    cuts: Vec<usize>,
    order: Vec<usize>,
    /// Where each piece is cut again, with a fragment header of its own.
    nested: Option<usize>,
}

impl Shape {
    /// Whether the first piece shows the ports.
    pub(crate) fn shows_ports(&self) -> bool {
        let headers: usize = self.inside.iter().map(|(_, length)| length).sum();
        let hidden = self.inside.iter().any(|(kind, _)| *kind == AUTHENTICATION);
        !hidden && self.nested.is_none() && headers + 4 <= self.cuts[0]
    }
}

/// All ways for a segment of that length: 2 and 3 pieces, each cut, in order and not.
pub(crate) fn shapes_v6(length: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for before in BEFORE {
        for inside in INSIDE {
            let whole = length + inside.iter().map(|(_, length)| length).sum::<usize>();
            let mut add = |cuts: Vec<usize>, order: &[usize], nested| {
                let (before, inside, order) = (before.to_vec(), inside.to_vec(), order.to_vec());
                shapes.push(Shape { before, inside, cuts, order, nested });
            };
            for first in (8..whole).step_by(8) {
                TWO.iter().for_each(|order| add(vec![first], order, None));
                TWO.iter().for_each(|order| add(vec![first], order, Some(8)));
                for second in (first + 8..whole).step_by(8) {
                    THREE.iter().for_each(|order| add(vec![first, second], order, None));
                }
            }
        }
    }
    shapes
}

/// The same for IPv4, with first pieces of every length, such as no sender makes.
pub(crate) fn shapes_v4(length: usize) -> Vec<Shape> {
    let shape = |cuts: Vec<usize>, order: &[usize]| Shape {
        before: Vec::new(),
        inside: Vec::new(),
        cuts,
        order: order.to_vec(),
        nested: None,
    };
    let two = (1..length).flat_map(|cut| TWO.map(|order| shape(vec![cut], order)));
    let cuts =
        (8..length).step_by(8).flat_map(|first| (first + 8..length).step_by(8).map(move |second| (first, second)));
    two.chain(cuts.flat_map(|(first, second)| THREE.map(|order| shape(vec![first, second], order)))).collect()
}

/// The IP packets that carry `packet` in that shape; `id` is no other packet's.
pub(crate) fn pieces(packet: &Packet, shape: &Shape, id: u32) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    packet.write(&mut whole);
    let made = if packet.source.is_ipv4() { pieces_v4(&whole, shape, id) } else { pieces_v6(&whole, shape, id) };
    shape.order.iter().flat_map(|&number| made[number].clone()).collect()
}

fn pieces_v6(whole: &[u8], shape: &Shape, id: u32) -> Vec<Vec<Vec<u8>>> {
    let (header, segment) = whole.split_at(40);
    let (kind, content) = chained(&shape.inside, header[6], segment);
    let before: Vec<(u8, usize)> = shape.before.iter().map(|&kind| (kind, 8)).collect();
    let packet = |(kind, content): (u8, Vec<u8>)| {
        let (kind, content) = chained(&before, kind, &content);
        let mut packet = header.to_vec();
        packet[4..6].copy_from_slice(&length16(content.len()).to_be_bytes());
        packet[6] = kind;
        packet.extend(content);
        packet
    };
    let pieces = fragments(kind, &content, &shape.cuts, id).into_iter();
    match shape.nested {
        None => pieces.map(|piece| vec![packet((FRAGMENT, piece))]).collect(),
        Some(cut) => (1..)
            .zip(pieces)
            .map(|(number, piece)| {
                let again = fragments(FRAGMENT, &piece, &[cut], id | number << 28);
                again.into_iter().map(|piece| packet((FRAGMENT, piece))).collect()
            })
            .collect(),
    }
}

/// Headers of those types and lengths before `content`, with the type of the first.
fn chained(headers: &[(u8, usize)], last: u8, content: &[u8]) -> (u8, Vec<u8>) {
    let mut result = (last, content.to_vec());
    for &(kind, length) in headers.iter().rev() {
        let mut header = vec![0; length];
        header[0] = result.0;
        match kind {
            FRAGMENT => {}
            // An experimental type (RFC 4727) with no segments left.
            ROUTING => header[2] = 253,
            AUTHENTICATION => header[1] = low8(length / 4 - 2),
            // PadN over the rest.
            _ => {
                header[1] = low8(length / 8 - 1);
                header[2..4].copy_from_slice(&[1, low8(length - 4)]);
            }
        }
        header.append(&mut result.1);
        result = (kind, header);
    }
    result
}

/// The fragments of a packet, each from its fragment header on.
fn fragments(kind: u8, content: &[u8], cuts: &[usize], id: u32) -> Vec<Vec<u8>> {
    let ends = cuts.iter().copied().chain([content.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let fragment = |(start, end): (usize, usize)| {
        let more = u16::from(end < content.len());
        let mut fragment = vec![kind, 0];
        fragment.extend((length16(start) | more).to_be_bytes());
        fragment.extend(id.to_be_bytes());
        fragment.extend(&content[start..end]);
        fragment
    };
    starts.zip(ends).map(fragment).collect()
}

fn pieces_v4(whole: &[u8], shape: &Shape, id: u32) -> Vec<Vec<Vec<u8>>> {
    let (header, segment) = whole.split_at(20);
    let ends = shape.cuts.iter().copied().chain([segment.len()]);
    // The next piece begins at the next multiple of eight at most: offsets count in eights.
    let starts = [0].into_iter().chain(shape.cuts.iter().map(|cut| cut / 8 * 8));
    let piece = |(start, end): (usize, usize)| {
        let mut packet = header.to_vec();
        let more = if end < segment.len() { 0x2000 } else { 0 };
        packet[2..4].copy_from_slice(&length16(20 + end - start).to_be_bytes());
        packet[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
        packet[6..8].copy_from_slice(&(length16(start / 8) | more).to_be_bytes());
        packet[10..12].fill(0);
        let sum = knock_testkit::checksum(&packet, 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&segment[start..end]);
        vec![packet]
    };
    starts.zip(ends).map(piece).collect()
}

fn length16(length: usize) -> u16 {
    u16::try_from(length).expect("short packets")
}

fn low8(length: usize) -> u8 {
    u8::try_from(length).expect("short headers")
}
