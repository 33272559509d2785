//! Each way in which a knock does nothing has its reason.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::Meaning::{Completed, Ignored, Knock as Next, Reset as Lost};
use knock_proto::{
    Identity, Knock, Meaning, NotCounted, Packet, Port, Protocol, Reset, Rule, Settings, TcpFlags, Time, Tracer,
};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

fn rule(id: &str, sequence: &[Knock]) -> Rule {
    Rule {
        id: id.into(),
        sequence: sequence.to_vec(),
        timeout: Duration::from_secs(5),
        tcp_flags: TcpFlags::default(),
        targets: Vec::new(),
    }
}

/// Follows packets of one client, a tenth of a second after each other.
struct Client {
    tracer: Tracer,
    now: Time,
    number: u32,
}

impl Client {
    fn new() -> Client {
        let ssh = rule("ssh", &[Knock::tcp(7000), Knock::tcp(9000), Knock::udp(8000), Knock::tcp(6000)]);
        let web = rule("web", &[Knock::tcp(1000), Knock::tcp(1000), Knock::tcp(3000)]);
        let settings = Settings { sources: 100, tripwires: true, guarded: vec![Port::tcp(22).into()] };
        Client { tracer: Tracer::new(vec![ssh, web], &settings, 100), now: Time::from_millis(10_000), number: 1 }
    }

    fn wait(&mut self, milliseconds: u64) -> &mut Client {
        self.now = self.now.after(Duration::from_millis(milliseconds));
        self
    }

    /// What a packet means, as (rule, knocks, meaning).
    fn send(&mut self, knock: Knock) -> Vec<(String, usize, Meaning)> {
        self.number += 1;
        self.send_again(knock, true)
    }

    fn send_again(&mut self, knock: Knock, local: bool) -> Vec<(String, usize, Meaning)> {
        self.wait(100);
        let tcp_flags = if knock.protocol == Protocol::Tcp { TcpFlags::SYN } else { 0 };
        let identity = Identity { source_port: 40_000, number: self.number << 16 };
        let packet = Packet { source: CLIENT, destination: SERVER, knock, tcp_flags, identity };
        let steps = self.tracer.handle(self.now, &packet, local);
        assert!(steps.iter().all(|step| step.source == CLIENT && step.at == self.now && step.knocked <= step.of));
        steps.into_iter().map(|step| (step.rule.as_str().to_owned(), step.knocked, step.meaning)).collect()
    }

    fn begins(&mut self) -> &mut Client {
        assert_eq!(self.send(Knock::tcp(7000)), [of("ssh", 1, Next)]);
        assert_eq!(self.send(Knock::tcp(9000)), [of("ssh", 2, Next)]);
        self
    }
}

fn of(rule: &str, knocked: usize, meaning: Meaning) -> (String, usize, Meaning) {
    (rule.to_owned(), knocked, meaning)
}

#[test]
fn a_right_sequence_is_followed_to_its_end() {
    let mut client = Client::new();
    client.begins();
    assert_eq!(client.send(Knock::udp(8000)), [of("ssh", 3, Next)]);
    assert_eq!(client.send(Knock::tcp(6000)), [of("ssh", 4, Completed)]);
    for (knocked, knock) in [(1, 1000), (2, 1000)] {
        assert_eq!(client.send(Knock::tcp(knock)), [of("web", knocked, Next)]);
    }
    assert_eq!(client.send(Knock::tcp(3000)), [of("web", 3, Completed)]);
}

#[test]
fn a_tripwire_another_port_and_another_rule_reset_the_progress() {
    for (knock, reason) in [
        (Knock::tcp(6001), Reset::Tripwire),
        (Knock::tcp(6000), Reset::WrongOrder),
        (Knock::tcp(3000), Reset::OtherRule),
    ] {
        let mut client = Client::new();
        assert_eq!(client.begins().send(knock), [of("ssh", 2, Lost(reason))]);
        client.begins();
    }
    // The first knock of the same rule, or of another one, begins again.
    assert_eq!(
        Client::new().begins().send(Knock::tcp(7000)),
        [of("ssh", 2, Lost(Reset::WrongOrder)), of("ssh", 1, Next)]
    );
    assert_eq!(
        Client::new().begins().send(Knock::tcp(1000)),
        [of("ssh", 2, Lost(Reset::OtherRule)), of("web", 1, Next)]
    );
}

#[test]
fn a_sequence_that_takes_too_long_is_named_once_with_the_time_that_it_took() {
    let mut client = Client::new();
    let steps = client.begins().wait(6_000).send(Knock::udp(8000));
    let too_slow = Lost(Reset::TooSlow { took: Duration::from_millis(6_200), timeout: Duration::from_secs(5) });
    assert_eq!(steps, [of("ssh", 2, too_slow)]);
    assert_eq!(client.send(Knock::tcp(6000)), []);
    client.begins();
    // The knock that is too late may be the first one of another try.
    let steps = client.wait(6_000).send(Knock::tcp(7000));
    assert_eq!(steps, [of("ssh", 2, too_slow), of("ssh", 1, Next)]);
}

#[test]
fn packets_that_change_nothing_have_a_reason() {
    let mut client = Client::new();
    assert_eq!(client.begins().send_again(Knock::tcp(9000), true), [of("ssh", 2, Ignored(NotCounted::Retransmission))]);
    assert_eq!(client.send(Knock::tcp(9000)), [of("ssh", 2, Ignored(NotCounted::Repeated))]);
    assert_eq!(client.send(Knock::tcp(8000)), [of("ssh", 2, Ignored(NotCounted::WrongProtocol))]);
    assert_eq!(client.send_again(Knock::udp(8000), false), [of("ssh", 2, Ignored(NotCounted::OtherDestination))]);
    assert_eq!(client.send(Knock::udp(8000)), [of("ssh", 3, Next)]);
    assert_eq!(client.send(Knock::tcp(443)), []);
    assert_eq!(Client::new().send(Knock::udp(7000)), [of("ssh", 0, Ignored(NotCounted::WrongProtocol))]);
    assert_eq!(Client::new().send(Knock::tcp(9000)), [], "the middle of a sequence says nothing");
}
