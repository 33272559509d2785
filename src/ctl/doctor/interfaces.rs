//! The findings about interfaces: whether those that the configuration names are there.

use super::Finding;
use crate::control::protocol::Interface;

/// The findings about the interfaces that are listened on, and about the exempt ones.
pub(super) fn findings<'i>(
    listened_on: &'i [Interface],
    exempt: &'i [Interface],
) -> impl Iterator<Item = Finding> + 'i {
    let missing = exempt.iter().filter(|interface| interface.state == "absent");
    listened_on.iter().map(listening).chain(missing.map(missing_exempt))
}

fn listening(interface: &Interface) -> Finding {
    let name = &interface.name;
    match interface.state.as_str() {
        "up" => Finding::ok("interface", format!("knocks are heard on {name}")),
        "down" => Finding::problem("interface", format!("{name} is down: no knock is heard on it"))
            .because(["ip link".to_owned()])
            .fix(if is_pattern(name) { "ip link set NAME up".to_owned() } else { format!("ip link set {name} up") }),
        _ => Finding::problem("interface", absent(interface, "no knock is heard on it"))
            .because(["ip link".to_owned()])
            .fix("set `interface` to the name of an existing interface or to \"any\", then run knockctl reload"),
    }
}

fn missing_exempt(interface: &Interface) -> Finding {
    Finding::warning("exempt interface", absent(interface, "it exempts no packet")).because(["ip link".to_owned()]).fix(
        "correct or delete it in `nftables.exempt_interfaces`, then run knockctl reload; an interface that appears \
              later is exempt from then on",
    )
}

fn absent(interface: &Interface, consequence: &str) -> String {
    let name = &interface.name;
    let what = if is_pattern(name) { "matches no interface" } else { "does not exist" };
    let hint = interface.nearest.as_ref().map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
    format!("{name} {what}: {consequence}{hint}")
}

fn is_pattern(name: &str) -> bool {
    name.ends_with(['*', '+'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::Severity;

    #[test]
    fn an_interface_that_is_not_there_is_a_finding_with_the_name_that_is_like_it() {
        let interface = |name: &str, state: &str, nearest: Option<&str>| Interface {
            name: name.to_owned(),
            state: state.to_owned(),
            nearest: nearest.map(str::to_owned),
        };
        let listened_on = [
            interface("eth0", "up", None),
            interface("wg0", "down", None),
            interface("ppp+", "down", None),
            interface("ehh1", "absent", Some("eth1")),
        ];
        let exempt = [
            interface("lo", "up", None),
            interface("br-*", "absent", None),
            interface("docker", "absent", Some("docker0")),
        ];
        let found = findings(&listened_on, &exempt).map(|finding| (finding.severity, finding.text));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (Severity::Ok, "knocks are heard on eth0".to_owned()),
                (Severity::Problem, "wg0 is down: no knock is heard on it".to_owned()),
                (Severity::Problem, "ppp+ is down: no knock is heard on it".to_owned()),
                (Severity::Problem, "ehh1 does not exist: no knock is heard on it; did you mean eth1?".to_owned()),
                (Severity::Warning, "br-* matches no interface: it exempts no packet".to_owned()),
                (Severity::Warning, "docker does not exist: it exempts no packet; did you mean docker0?".to_owned()),
            ]
        );
    }
}
