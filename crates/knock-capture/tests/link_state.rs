//! The packet socket while the interface under it goes down, comes up, is deleted and made again.

mod netns;

use std::time::{Duration, Instant};

use knock_capture::{Capture, Error};
use knock_proto::Knock;
use knock_testkit::{DEADLINE, in_namespace};
use netns::{
    SENTINEL, Sender, capture, error, index_of, ip, knock_until_heard, ports_until, program, ready, receive, veth,
};

/// How often the socket asks for attention in a quarter of a second in which nothing happens.
fn wakeups(capture: &mut Capture) -> u32 {
    let start = Instant::now();
    let mut wakeups = 0;
    while start.elapsed() < Duration::from_millis(250) {
        if ready(capture, Duration::from_millis(50)) {
            wakeups += 1;
            let _ = capture.next();
        }
    }
    wakeups
}

#[test]
fn an_interface_that_goes_down_is_reported_once_and_receives_again_when_it_is_up() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        for _ in 0..3 {
            ip("link set near down");
            assert!(matches!(error(&mut capture), Error::LinkDown));
            assert_eq!(wakeups(&mut capture), 0);
            assert!(matches!(capture.next(), Ok(None)));
            ip("link set near up");
            knock_until_heard(&mut capture, 1000);
        }
    });
}

#[test]
fn packets_queued_when_the_interface_goes_down_are_still_delivered() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        Sender::new("far").knock(1000);
        assert!(ready(&capture, DEADLINE));
        ip("link set near down");
        assert!(matches!(error(&mut capture), Error::LinkDown));
        assert_eq!(netns::destination_port(&receive(&mut capture)), 1000);
        assert_eq!(wakeups(&mut capture), 0);
    });
}

#[test]
fn an_interface_that_is_down_can_be_bound_and_receives_when_it_is_up() {
    in_namespace(|| {
        veth("near", "far");
        ip("link set near down");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        assert!(matches!(error(&mut capture), Error::LinkDown));
        assert_eq!(wakeups(&mut capture), 0);
        ip("link set near up");
        knock_until_heard(&mut capture, 1000);
    });
}

#[test]
fn an_interface_that_is_made_again_is_bound_again_without_a_capability() {
    in_namespace(|| {
        veth("near", "far");
        let mut capture = capture(&[Knock::tcp(1000)], "near");
        let first = index_of("near");
        ip("link delete near");
        assert!(matches!(error(&mut capture), Error::LinkDown | Error::LinkGone));
        assert_eq!(wakeups(&mut capture), 0);
        match capture.bind(first).expect_err("it is gone") {
            Error::NoSuchLink { index } => assert_eq!(index, first),
            other => panic!("{other}"),
        }
        assert!(matches!(capture.next(), Ok(None)), "a failed bind leaves the socket usable");

        veth("near", "far");
        assert_ne!(index_of("near"), first);
        let (sender, second) = (Sender::new("far"), index_of("near"));
        netns::drop_capabilities();
        assert!(Capture::open(&program(&[])).expect_err("no capability").is_permission());
        capture.bind(second).expect("bound again");
        sender.knock(1000);
        sender.knock(SENTINEL);
        assert_eq!(ports_until(&mut capture, SENTINEL), [1000]);
    });
}

#[test]
fn bound_to_all_interfaces_those_that_come_later_are_heard_and_one_that_goes_is_no_error() {
    in_namespace(|| {
        let mut capture = capture(&[Knock::tcp(1000)], "any");
        for _ in 0..2 {
            veth("near", "far");
            let sender = Sender::new("far");
            sender.knock(1000);
            sender.knock(SENTINEL);
            assert_eq!(ports_until(&mut capture, SENTINEL), [1000]);
            ip("link delete near");
            assert_eq!(wakeups(&mut capture), 0);
        }
    });
}

#[test]
fn an_index_that_no_interface_can_have_is_refused() {
    in_namespace(|| {
        let mut capture = Capture::open(&program(&[])).expect("a packet socket");
        for index in [77, u32::MAX] {
            assert!(matches!(capture.bind(index), Err(Error::NoSuchLink { index: at }) if at == index));
        }
    });
}

#[test]
fn without_the_capability_the_error_says_which_one() {
    in_namespace(|| {
        netns::drop_capabilities();
        let error = Capture::open(&program(&[])).expect_err("no capability");
        assert!(error.is_permission());
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

#[test]
fn the_descriptors_that_bind_makes_do_not_pile_up() {
    in_namespace(|| {
        let mut capture = capture(&[], "lo");
        let open = || std::fs::read_dir("/proc/thread-self/fd").expect("/proc").count();
        let before = open();
        for _ in 0..200 {
            capture.bind(index_of("lo")).expect("bound");
            capture.bind(77).expect_err("no such interface");
        }
        // Other tests of this process open a few meanwhile.
        assert!(open() < before + 100, "{before} before, {} after", open());
    });
}
