//! Mistakes of every kind in one file.

use knock_config::parse;

fn errors(text: &str) -> String {
    parse("c.json", text).expect_err(text).to_string()
}

#[test]
fn mistakes_of_every_kind_are_shown_at_once_each_once() {
    let text = r#"{
  "interface": "eth0",
  "log": { "level": "loud", "target": 5 },
  "limts": { "grants": 7 },
  "tripwires": "yes",
  "rules": [
    { "name": "ssh", "sequnce": [7000, 9000, 8000], "allow": { "ports": [70000], "timeout": "1h" } },
    { "nmae": "web", "sequence": [7000, 9000, 8000], "allow": { "ports": [80], "timout": "1h" } },
    { "name": "close", "sequence": 7000, "revoke": "web", "cooldown": "soon" }
  ]
}"#;
    let found: Vec<String> =
        errors(text).lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        found,
        [
            "c.json:3:21 log.level",
            "c.json:3:39 log.target",
            "c.json:4:3 limts",
            "c.json:5:16 tripwires",
            "c.json:7:22 rules[0].sequnce",
            "c.json:7:74 rules[0].allow.ports[0]",
            "c.json:8:7 rules[1].nmae",
            "c.json:8:80 rules[1].allow.timout",
            "c.json:9:36 rules[2].sequence",
            "c.json:9:71 rules[2].cooldown",
        ],
        "{}",
        errors(text)
    );
    let many = format!(r#"{{"rules": [{}]}}"#, vec![r#"{"name": 5, "sequence": 5, "x": 1}"#; 5000].join(", "));
    assert!(errors(&many).lines().count() <= knock_config::PROBLEMS_MAX + 1);
    let many = format!(r#"{{"rules": [{}]}}"#, vec![r#"{"name": 5, "sequence": 5}"#; 5000].join(", "));
    assert_eq!(errors(&many).lines().count(), knock_config::PROBLEMS_MAX);
}
