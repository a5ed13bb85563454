//! A request's line, read by hand where it is of a kind that nearly all are.
//!
//! What a message is, serde says of the types in [`request`](super::request); this takes the same for the same,
//! faster, and takes only what is plain: `acquire`, `release`, `cancel` and `keep_alive`, fields in any order, without
//! escapes, fractions, `null` and fields that come twice. All else is left to serde, as well as saying what is wrong.
//! Limits are checked after either.

use super::{
    Acquire, Auth, Cancel, Claim, KeepAlive, Mode, OwnerRef, Release, Request, RequestBody, ResourceName,
    SessionKey, VERSION,
};

/// The request of a line, if it is a plain one of a usual kind.
pub(super) fn read(line: &[u8]) -> Option<Request> {
    let mut input = In { rest: line };
    let request = input.request()?;
    input.blank();
    input.rest.is_empty().then_some(request)
}

/// What is left of a line.
struct In<'a> {
    rest: &'a [u8],
}

/// A field that has not come before.
fn put<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

impl<'a> In<'a> {
    fn blank(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Whether this sign comes next; then it is behind us.
    fn skip(&mut self, sign: u8) -> bool {
        self.blank();
        let rest = self.rest.strip_prefix(&[sign]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn sign(&mut self, sign: u8) -> Option<()> {
        self.skip(sign).then_some(())
    }

    /// A natural number that fits for sure. What is more than that goes on with a digit, a point or a letter, where
    /// nothing but a comma or an end is taken.
    fn number(&mut self) -> Option<u64> {
        self.blank();
        let digits = self.rest.iter().take(19).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        if digits == 0 || number[0] == b'0' && digits > 1 {
            return None;
        }
        self.rest = rest;
        Some(number.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }

    fn text(&mut self) -> Option<&'a str> {
        self.sign(b'"')?;
        let end = self.rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(text).ok()
    }

    /// An object, each of whose fields is read by `field`.
    fn object(&mut self, mut field: impl FnMut(&mut Self, &str) -> Option<()>) -> Option<()> {
        self.sign(b'{')?;
        loop {
            let name = self.text()?;
            self.sign(b':')?;
            field(self, name)?;
            if !self.skip(b',') {
                return self.sign(b'}');
            }
        }
    }

    fn request(&mut self) -> Option<Request> {
        let (mut v, mut partition, mut session, mut key, mut body) = (None, None, None, None, None);
        self.object(|input, name| match name {
            "v" => put(&mut v, input.number()?),
            "partition" => put(&mut partition, input.number()?.try_into().ok()?),
            "session" => put(&mut session, input.number()?),
            "key" => put(&mut key, SessionKey::unchecked(input.text()?)),
            "acquire" => put(&mut body, RequestBody::Acquire(input.acquire()?)),
            "release" => put(&mut body, RequestBody::Release(Release { token: input.only("token")? })),
            "cancel" => put(&mut body, RequestBody::Cancel(Cancel { seq: input.only("seq")? })),
            "keep_alive" => put(&mut body, RequestBody::KeepAlive(KeepAlive { n: input.only("n")? })),
            _ => None,
        })?;
        let auth = Auth { session: session?, key: key? };
        (v? == u64::from(VERSION)).then_some(())?;
        Some(Request { partition: partition?, auth: Some(auth), body: body? })
    }

    /// The number in an object that has but one field.
    fn only(&mut self, field: &str) -> Option<u64> {
        let mut found = None;
        self.object(|input, name| (name == field).then(|| put(&mut found, input.number()?))?)?;
        found
    }

    fn acquire(&mut self) -> Option<Acquire> {
        let (mut seq, mut claims, mut owner, mut wait_ms) = (None, None, None, None);
        let (mut hold_max_ms, mut priority, mut reason, mut value) = (None, None, None, None);
        self.object(|input, name| match name {
            "seq" => put(&mut seq, input.number()?),
            "claims" => put(&mut claims, input.claims()?),
            "owner" => put(&mut owner, input.owner()?),
            "wait_ms" => put(&mut wait_ms, input.number()?),
            "hold_max_ms" => put(&mut hold_max_ms, input.number()?),
            "priority" => put(&mut priority, input.number()?.try_into().ok()?),
            "reason" => put(&mut reason, input.text()?.to_owned()),
            "value" => put(&mut value, input.text()?.to_owned()),
            _ => None,
        })?;
        Some(Acquire { seq: seq?, claims: claims?, owner, wait_ms, hold_max_ms, priority, reason, value })
    }

    fn owner(&mut self) -> Option<OwnerRef> {
        self.sign(b'[')?;
        let session = self.number()?;
        self.sign(b',')?;
        let owner = OwnerRef(session, self.number()?);
        self.sign(b']')?;
        Some(owner)
    }

    fn claims(&mut self) -> Option<Vec<Claim>> {
        self.sign(b'[')?;
        let mut claims = Vec::with_capacity(1);
        loop {
            claims.push(self.claim()?);
            if !self.skip(b',') {
                self.sign(b']')?;
                return Some(claims);
            }
        }
    }

    fn claim(&mut self) -> Option<Claim> {
        let (mut resource, mut mode, mut permits) = (None, None, None);
        self.object(|input, name| match name {
            "resource" => put(&mut resource, ResourceName::unchecked(input.text()?)),
            "mode" => put(&mut mode, mode_of(input.text()?)?),
            "permits" => put(&mut permits, input.number()?.try_into().ok()?),
            _ => None,
        })?;
        Some(Claim { resource: resource?, mode: mode?, permits })
    }
}

fn mode_of(text: &str) -> Option<Mode> {
    match text {
        "exclusive" => Some(Mode::Exclusive),
        "shared" => Some(Mode::Shared),
        "permits" => Some(Mode::Permits),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z/{}0-9]{0,20}",
            "[\"\\\\a\u{0}-\u{1f}\u{7f}ä\u{2028}\u{1f600}]{0,6}",
            any::<String>()
        ]
    }

    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![0..20u64, Just((1 << 53) - 1), any::<u64>()]
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), Just(Mode::Permits)];
        let claim = (texts(), mode, of(any::<u32>())).prop_map(|(name, mode, permits)| Claim {
            resource: ResourceName::unchecked(&name),
            mode,
            permits,
        });
        prop::collection::vec(claim, 0..3)
    }

    fn bodies() -> impl Strategy<Value = RequestBody> {
        let owner = of((numbers(), numbers()).prop_map(|(session, seq)| OwnerRef(session, seq)));
        let limits = (of(numbers()), of(numbers()), of(any::<u8>()));
        let acquire = (numbers(), claims(), owner, limits, of(texts()), of(texts()));
        let acquire =
            acquire.prop_map(|(seq, claims, owner, (wait_ms, hold_max_ms, priority), reason, value)| {
                let acquire = Acquire { seq, claims, owner, wait_ms, hold_max_ms, priority, reason, value };
                RequestBody::Acquire(acquire)
            });
        prop_oneof![
            4 => acquire,
            1 => numbers().prop_map(|token| RequestBody::Release(Release { token })),
            1 => numbers().prop_map(|seq| RequestBody::Cancel(Cancel { seq })),
            1 => numbers().prop_map(|n| RequestBody::KeepAlive(KeepAlive { n })),
            1 => Just(RequestBody::Close(crate::wire::Close {})),
        ]
    }

    fn requests() -> impl Strategy<Value = Request> {
        let key = prop_oneof![9 => "[a-z0-9]{22}", 1 => texts()];
        let auth =
            of((numbers(), key)
                .prop_map(|(session, key)| Auth { session, key: SessionKey::unchecked(&key) }));
        (any::<u32>(), auth, bodies()).prop_map(|(partition, auth, body)| Request { partition, auth, body })
    }

    /// What must hold of a line, whatever it is: read by hand as by serde, or not at all. Returns which.
    fn reads_alike(line: &[u8]) -> bool {
        let by_hand = read(line);
        let is_read = by_hand.is_some();
        if is_read {
            assert_eq!(Request::by_serde(line).ok(), by_hand, "{}", String::from_utf8_lossy(line));
        }
        is_read
    }

    /// Signs and words that turn a line into one that is nearly right.
    const PIECES: &[&str] = &[
        "",
        " ",
        "\n",
        "\t ",
        "\u{b}",
        "0",
        "-",
        "1",
        ".0",
        "e1",
        ",",
        ":",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        "null",
        "true",
        "\\u0061",
        "ä",
        "\"v\":1,",
        "\"seq\":3,",
        "\"session\":2,",
        "\"permits\":null,",
        "\"mode\":\"shared\",",
        ",\"close\":{}",
        "\"extra\":[],",
        "18446744073709551615",
        "9999999999999999999",
        "[1,2]",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_alike(request in requests()) {
            reads_alike(&request.encode());
        }

        #[test]
        fn what_is_changed_is_read_alike(
            request in requests(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..8usize), 1..4),
        ) {
            let mut line = request.encode();
            for (at, byte, edit) in edits {
                let at = at.index(line.len());
                match edit {
                    0 => line[at] = byte,
                    1 => drop(line.remove(at)),
                    _ => {
                        let piece = PIECES[usize::from(byte) % PIECES.len()];
                        line.splice(at..(at + edit % 3).min(line.len()), piece.bytes());
                    }
                }
                if line.is_empty() {
                    break;
                }
            }
            reads_alike(&line);
        }
    }

    #[test]
    fn usual_ones_are_read_by_hand_however_they_are_laid_out() {
        let key = "0123456789abcdef0123456789abcdef";
        let acquire = format!(
            r#" {{"key" : "{key}", "session": 4790, "acquire": {{"claims": [{{"mode": "permits", "permits": 3, "resource": "pool/ä"}},
            {{"resource":"b","mode":"shared"}}], "priority": 0, "value": "", "owner": [1, 2], "seq": 0}}, "partition": 0, "v": 1}} "#
        );
        assert!(reads_alike(acquire.as_bytes()));
        let mut by_hand = 0;
        for kind in ["requests", "replies"] {
            for file in std::fs::read_dir(format!("../protocol/golden/messages/{kind}")).unwrap() {
                let text = std::fs::read(file.unwrap().path()).unwrap();
                let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                by_hand += lines.filter(|line| reads_alike(line)).count();
            }
        }
        assert!(by_hand >= 4, "{by_hand} lines are read by hand");
    }

    #[test]
    fn unusual_ones_are_not() {
        let usual = r#"{"v":1,"partition":0,"session":7,"key":"k","release":{"token":5}}"#;
        assert!(reads_alike(usual.as_bytes()));
        for (from, to) in [
            ("5", "05"),
            ("5", "-0"),
            ("5", "5.0"),
            ("5", "5e0"),
            ("5", "\"5\""),
            ("5", "18446744073709551615"),
            ("5", "18446744073709551616"),
            ("5", "5,"),
            ("5", "5,\"token\":5"),
            ("5", "5,\"seq\":5"),
            ("\"token\":5", ""),
            ("token", "t\\u006fken"),
            ("k\"", "\u{1}\""),
            ("}}", "}}x"),
            ("}}", "}"),
            ("}}", "},\"cancel\":{\"seq\":1}}"),
            ("}}", "},}"),
            ("\"v\":1", "\"v\":2"),
            ("\"v\":1", "\"v\":1,\"v\":1"),
            ("\"v\":1,", ""),
            ("0", "4294967296"),
            ("\"session\":7,", ""),
            ("7", "null"),
        ] {
            let line = usual.replace(from, to);
            assert!(!reads_alike(line.as_bytes()), "{line}");
        }
    }
}
