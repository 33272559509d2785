//! Only what was signed is accepted, each request has one encoding, and nothing is decided that the key may not.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use knock_spa::{
    Action, AuthorizedKey, AuthorizedKeys, Cover, Keyring, Operation, PrivateKey, PublicKey, Realm, Refusal, Request,
    RuleTerms, Signature, SignatureError, Terms, UnixTime, Unopened,
};
use sha2::{Digest, Sha256};

use crate::import::printable;
use crate::sealer::Sealer;

const TIME: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const COVER: [u8; 32] = [7; 32];
const NONCE: [u8; 24] = [9; 24];
const REALM: &str = "example.com";
const APPLICATION: &[u8] = b"ssh:";
const BODY: usize = 96;
const SIGNATURE: usize = 72;

/// A user: the private key, whether it acts as that of a FIDO device, and what a holder of the cover can seal with.
struct User {
    private: PrivateKey,
    fido: bool,
    sealer: Sealer,
    public: PublicKey,
}

impl User {
    fn new(private: PrivateKey, fido: bool) -> User {
        let mut blob = private.public_key().blob().to_vec();
        if fido {
            let name = match private.public_key().key_type().name() {
                "ssh-ed25519" => "sk-ssh-ed25519@openssh.com",
                _ => "sk-ecdsa-sha2-nistp256@openssh.com",
            };
            let rest = &blob[4 + private.public_key().key_type().name().len()..];
            blob = [string(name.as_bytes()), rest.to_vec(), string(APPLICATION)].concat();
        }
        let public = PublicKey::from_blob(&blob).expect("a key");
        User { private, fido, sealer: Sealer::new(REALM, &COVER, &blob), public }
    }

    /// The 72 bytes of an honest signature.
    fn sign(&self, to_be_signed: &[u8], flags: u8) -> [u8; SIGNATURE] {
        if !self.fido {
            return self.private.sign(to_be_signed).encode();
        }
        let flags_and_counter = [flags, 0, 0, 1, 2];
        let digests = [Sha256::digest(APPLICATION), Sha256::digest(to_be_signed)];
        let signed = [&digests[0][..], &flags_and_counter, &digests[1]].concat();
        let mut signature = self.private.sign(&signed).encode();
        signature[64..69].copy_from_slice(&flags_and_counter);
        signature
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

/// A server that knows a key of each type.
struct Server {
    users: [User; 4],
    keyring: Keyring,
    terms: Terms,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let realm: Realm = REALM.parse().expect("a realm");
    let p256 = |number| PrivateKey::from_p256(number, "").expect("a number of the group");
    let users = [
        User::new(PrivateKey::from_seed([1; 32], ""), false),
        User::new(p256([2; 32]), false),
        User::new(PrivateKey::from_seed([3; 32], ""), true),
        User::new(p256([4; 32]), true),
    ];
    let options = [
        "rules=\"ssh,web\",address=\"any\",wide",
        "from=\"192.0.2.0/24,!192.0.2.9\",address=\"strict\"",
        "wide,rules=\"ssh\"",
        "verify-required,address=\"any\",from=\"2001:db8::/32,192.0.2.7\"",
    ];
    let lines = users.iter().zip(options).map(|(user, options)| format!("{options} {} user\n", user.public));
    let authorized = AuthorizedKeys::parse(lines.collect::<String>().as_bytes());
    assert_eq!((authorized.keys.len(), &authorized.warnings[..]), (4, &[][..]));
    let keyring = Keyring::new(&realm, &[Cover::from_bytes(COVER)], authorized.keys, TIME);
    let rule =
        |name: &str, wide| (name.parse().expect("a name"), RuleTerms { lifetime: Duration::from_secs(3600), wide });
    let terms = Terms { window: Duration::from_secs(60), rules: [rule("ssh", true), rule("mail", false)].into() };
    Server { users, keyring, terms }
});

/// Checks [`Keyring`], [`Request::decode`], [`Signature::decode`] and [`AuthorizedKey::decide`] with these bytes: as a packet,
/// as a body, as a signature, and as what somebody seals who knows the cover.
///
/// # Panics
///
/// Where something is accepted that was not signed, has two encodings, or is not permitted.
pub fn signed_packet(bytes: &[u8]) {
    assert!(SERVER.keyring.open(bytes).is_err(), "opened without the cover");
    if let Some(signature) = bytes.first_chunk()
        && let Ok(decoded) = Signature::decode(signature)
    {
        assert_eq!(decoded.encode(), *signature);
    }
    for user in &SERVER.users {
        if let Ok(signature) = Signature::from_agent(bytes, &user.public) {
            assert_eq!(Signature::decode(&signature.encode()), Ok(signature));
        }
    }
    if let Some((body, rest)) = bytes.split_first_chunk() {
        sealed(*body, rest);
    }
}

/// Checks what somebody sends who knows the cover. `rest` is: how, flags of the FIDO device, change of the signature, padding.
fn sealed(mut body: [u8; BODY], rest: &[u8]) {
    let byte = |at: usize| rest.get(at).copied().unwrap_or_default();
    let (how, flags) = (byte(0), byte(1));
    if how & 0x80 != 0 {
        // Within some hours of the server's clock, which a fuzzer does not find.
        body[8..13].copy_from_slice(&TIME.as_millis().to_be_bytes()[..5]);
    }
    let user = &SERVER.users[usize::from(how & 3)];
    let change: Vec<u8> = (0..SIGNATURE).map(|at| byte(2 + at)).collect();
    let padding = rest.get(2 + SIGNATURE..).unwrap_or_default();
    let padding = &padding[..padding.len().min(255)];

    let mut signature = user.sign(&user.sealer.to_be_signed(&NONCE, &body), flags);
    signature.iter_mut().zip(&change).for_each(|(byte, change)| *byte ^= change);
    let day = TIME.day() + u32::from(how >> 2 & 3) - 2;
    let packet = user.sealer.seal(day, &NONCE, &[&body[..], &signature, padding].concat());
    let opened = match SERVER.keyring.open(&packet) {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!((error, TIME.day() - day), (Unopened::UnknownKey, 2));
            return;
        }
    };
    assert_eq!((&SERVER.keyring.key(&opened).key, opened.nonce()), (&user.public, &NONCE));
    let verified = SERVER.keyring.verify(&opened);
    let key = SERVER.keyring.key(&opened);
    match &verified {
        Err(Refusal::Signature(error)) => assert!(is_refused_for(*error, key, flags, &change), "{error}"),
        // Everything else is said to the holder of the key only.
        _ => assert!(change == [0; SIGNATURE], "a forged signature"),
    }
    match &verified {
        Ok(request) => {
            assert_eq!(request.encode(), Ok(body));
            assert!(padding.iter().all(|&byte| byte == 0) && request.time.day() == day);
            decide(key, request, how);
        }
        Err(Refusal::Padding) => assert!(padding.iter().any(|&byte| byte != 0)),
        Err(Refusal::Body(error)) => assert_eq!(Request::decode(&body).as_ref(), Err(error)),
        Err(Refusal::Day) => assert!(Request::decode(&body).is_ok_and(|request| request.time.day() != day)),
        Err(Refusal::Signature(_)) => {}
    }
    if let Err(error) = verified {
        printable(&error.to_string());
    }
}

/// Whether that error may follow from a change of an honest signature with these flags.
fn is_refused_for(error: SignatureError, key: &AuthorizedKey, flags: u8, change: &[u8]) -> bool {
    let fido = key.key.key_type().is_fido();
    let reserved = change[if fido { 69 } else { 64 }..].iter().any(|&byte| byte != 0);
    let unchanged = change.iter().all(|&byte| byte == 0);
    match error {
        SignatureError::Reserved => reserved,
        SignatureError::Wrong => !unchanged && !reserved,
        SignatureError::GreaterS => change[32..64].iter().any(|&byte| byte != 0) && !reserved,
        SignatureError::NotTouched => unchanged && fido && flags & 1 == 0,
        SignatureError::NotVerified => unchanged && fido && flags & 5 == 1,
    }
}

/// Nothing follows from a request that key and rules do not permit.
fn decide(key: &AuthorizedKey, request: &Request, how: u8) {
    let terms = &SERVER.terms;
    let sources = ["192.0.2.7", "192.0.2.9", "2001:db8::7", "::ffff:192.0.2.7"];
    let source: IpAddr = sources[usize::from(how >> 4 & 3)].parse().expect("an address");
    let decision = match key.decide(request, source, TIME, terms) {
        Ok(decision) => decision,
        Err(denial) => return printable(&denial.to_string()),
    };
    let (source, options) = (source.to_canonical(), &key.options);
    assert!(request.time.since(TIME).max(TIME.since(request.time)) <= terms.window);
    assert!(options.address.permits(request.address, source));
    assert_eq!(decision.address, request.address.unwrap_or(source));
    assert!(options.from.as_ref().is_none_or(|from| from.permits(source) && from.permits(decision.address)));
    assert!(options.rules.as_ref().is_none_or(|rules| rules.contains(&decision.rule)));
    assert!(request.rule.as_ref().is_none_or(|rule| *rule == decision.rule));
    let rule = terms.rules[&decision.rule];
    assert!(decision.wide == request.widen && (!decision.wide || options.wide && rule.wide));
    match decision.action {
        Action::Close => assert_eq!(request.operation, Operation::Close),
        Action::Open { lifetime } => {
            let asked = request.lifetime.map_or(rule.lifetime, |seconds| Duration::from_secs(seconds.get().into()));
            assert!(request.operation == Operation::Open && lifetime == asked.min(rule.lifetime));
        }
    }
}
