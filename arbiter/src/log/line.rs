//! A record's line, written and read by hand where it is of a kind that nearly all are.
//!
//! The format is what serde makes of the types in [`record`](super::record); this is the same, faster. Writing
//! gives byte for byte what `serde_json` gives; a test says so of every kind of record and of random ones. What
//! [`read`] gives is right because it was written again: whatever it took the line for, that record's line is the
//! line it read. All else is left to serde, as well as saying what is wrong with a line.

use super::record::{AcquireCommand, Command, Event, RECORD_BYTES_MAX, Record};
use arbiterq_client::wire::{Claim, ClaimGranted, Hash, Mode, OwnerRef, Reason, ResourceName, Timestamp};
use std::sync::Arc;

/// More than most lines need: growing one costs as much as writing it.
const LINE_BYTES: usize = 640;

/// The line of a record, without its line feed.
pub(super) fn write(record: &Record) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(LINE_BYTES));
    out.record(record);
    out.0
}

/// The record of a line, if it is of a usual kind and written as [`write`] does.
pub(crate) fn read(line: &[u8]) -> Option<Record> {
    if line.len() > RECORD_BYTES_MAX {
        return None;
    }
    let mut input = In { rest: line, name: None };
    let record = input.record()?;
    (input.rest.is_empty() && write(&record) == line).then_some(record)
}

struct Out(Vec<u8>);

impl Out {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }

    /// A field and its number.
    fn field(&mut self, name: &str, number: u64) {
        self.raw(name);
        self.number(number);
    }

    fn text(&mut self, text: &str) {
        let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
        if text.as_bytes().iter().all(plain) {
            self.0.push(b'"');
            self.raw(text);
            self.0.push(b'"');
        } else {
            self.by_serde(text);
        }
    }

    fn hash(&mut self, hash: &Hash) {
        self.0.push(b'"');
        self.0.extend_from_slice(&hash.digits());
        self.0.push(b'"');
    }

    fn timestamp(&mut self, at: Timestamp) {
        self.0.push(b'"');
        self.0.extend_from_slice(&at.digits());
        self.0.push(b'"');
    }

    fn by_serde(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        // A value of ours into memory: it cannot fail.
        let written = serde_json::to_writer(&mut self.0, value);
        assert!(written.is_ok(), "a record cannot be written: {written:?}");
    }

    fn record(&mut self, record: &Record) {
        let Record { index, prev, epoch, at, renewed, upto, command, events } = record;
        self.field("{\"index\":", *index);
        self.raw(",\"prev\":");
        self.hash(prev);
        self.field(",\"epoch\":", *epoch);
        self.raw(",\"at\":");
        self.timestamp(*at);
        for (i, (session, n)) in renewed.iter().enumerate() {
            self.field(if i == 0 { ",\"renewed\":[[" } else { "],[" }, *session);
            self.field(",", *n);
        }
        if !renewed.is_empty() {
            self.raw("]]");
        }
        if let Some(upto) = upto {
            self.field(",\"upto\":", *upto);
        }
        self.raw(",\"command\":");
        self.command(command);
        for (i, event) in events.iter().enumerate() {
            self.raw(if i == 0 { ",\"events\":[" } else { "," });
            self.event(event);
        }
        self.raw(if events.is_empty() { "}" } else { "]}" });
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Acquire(acquire) => self.acquire(acquire),
            Command::Release { session, token } => {
                self.field("{\"release\":{\"session\":", *session);
                self.field(",\"token\":", *token);
                self.raw("}}");
            }
            Command::Cancel { session, seq } => {
                self.field("{\"cancel\":{\"session\":", *session);
                self.field(",\"seq\":", *seq);
                self.raw("}}");
            }
            Command::Advance => self.raw("\"advance\""),
            Command::Barrier => self.raw("\"barrier\""),
            other => self.by_serde(other),
        }
    }

    fn acquire(&mut self, acquire: &AcquireCommand) {
        let AcquireCommand { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value } =
            acquire;
        self.field("{\"acquire\":{\"session\":", *session);
        self.field(",\"seq\":", *seq);
        self.claims(claims);
        self.owner(*owner);
        if *priority != 0 {
            self.field(",\"priority\":", (*priority).into());
        }
        self.limit(",\"wait_ms\":", *wait_ms);
        self.limit(",\"hold_max_ms\":", *hold_max_ms);
        self.said(reason, value);
        self.raw("}}");
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, reason, value } => {
                self.field("{\"granted\":{\"session\":", *session);
                self.field(",\"seq\":", *seq);
                self.owner(*owner);
                self.raw(",\"claims\":[");
                for (i, claim) in claims.iter().enumerate() {
                    let ClaimGranted { resource, mode, permits, capacity, floor } = claim;
                    self.claim(i, resource, *mode, *permits);
                    self.field(",\"capacity\":", (*capacity).into());
                    self.field(",\"floor\":", *floor);
                    self.raw("}");
                }
                self.raw("]");
                if *priority != 0 {
                    self.field(",\"priority\":", (*priority).into());
                }
                self.limit(",\"hold_max_ms\":", *hold_max_ms);
                self.limit(",\"wait_ms\":", *wait_ms);
                self.said(reason, value);
                self.raw("}}");
            }
            Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value } => {
                self.field("{\"queued\":{\"session\":", *session);
                self.field(",\"seq\":", *seq);
                self.claims(claims);
                self.owner(*owner);
                self.field(",\"priority\":", (*priority).into());
                self.limit(",\"wait_ms\":", *wait_ms);
                self.limit(",\"hold_max_ms\":", *hold_max_ms);
                self.said(reason, value);
                self.raw("}}");
            }
            Event::Released { token, reason: Reason::Released, by: None } => {
                self.field("{\"released\":{\"token\":", *token);
                self.raw(",\"reason\":\"released\"}}");
            }
            other => self.by_serde(other),
        }
    }

    fn claims(&mut self, claims: &[Claim]) {
        self.raw(",\"claims\":[");
        for (i, Claim { resource, mode, permits }) in claims.iter().enumerate() {
            self.claim(i, resource, *mode, *permits);
            self.raw("}");
        }
        self.raw("]");
    }

    /// Without its end.
    fn claim(&mut self, i: usize, resource: &ResourceName, mode: Mode, permits: Option<u32>) {
        self.raw(if i == 0 { "{\"resource\":" } else { ",{\"resource\":" });
        self.text(resource.as_str());
        self.raw(match mode {
            Mode::Exclusive => ",\"mode\":\"exclusive\"",
            Mode::Shared => ",\"mode\":\"shared\"",
            Mode::Permits => ",\"mode\":\"permits\"",
        });
        self.limit(",\"permits\":", permits.map(u64::from));
    }

    fn owner(&mut self, owner: Option<OwnerRef>) {
        if let Some(OwnerRef(session, seq)) = owner {
            self.field(",\"owner\":[", session);
            self.field(",", seq);
            self.raw("]");
        }
    }

    fn limit(&mut self, name: &str, limit: Option<u64>) {
        if let Some(limit) = limit {
            self.field(name, limit);
        }
    }

    fn said(&mut self, reason: &Option<Arc<str>>, value: &Option<Arc<str>>) {
        for (name, text) in [(",\"reason\":", reason), (",\"value\":", value)] {
            if let Some(text) = text {
                self.raw(name);
                self.text(text);
            }
        }
    }
}

/// What is left of a line. Nothing here has to be strict: what was misread is not written again as it was.
struct In<'a> {
    rest: &'a [u8],
    /// The last name. A command and its events say the same one.
    name: Option<ResourceName>,
}

impl<'a> In<'a> {
    /// Whether this comes next; then it is behind us.
    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text.as_bytes());
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn raw(&mut self, text: &str) -> Option<()> {
        self.skip(text).then_some(())
    }

    fn number(&mut self) -> Option<u64> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).take(19).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let number = number.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        (digits > 0).then_some(number)
    }

    /// A field and its number.
    fn field(&mut self, name: &str) -> Option<u64> {
        self.raw(name)?;
        self.number()
    }

    /// If the field is there, it must be right.
    fn limit(&mut self, name: &str) -> Option<Option<u64>> {
        if self.skip(name) { self.number().map(Some) } else { Some(None) }
    }

    /// Up to the quote; one that is escaped ends it too early.
    fn text(&mut self) -> Option<&'a str> {
        self.raw("\"")?;
        let end = self.rest.iter().position(|byte| *byte == b'"')?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(text).ok()
    }

    fn hash(&mut self) -> Option<Hash> {
        let text = self.text()?.as_bytes();
        let mut hash = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            // Whatever it makes of what is no digit is written as digits.
            let value = |digit: u8| if digit <= b'9' { digit & 15 } else { (digit & 15) + 9 };
            *byte = value(pair[0]) << 4 | value(pair[1]) & 15;
        }
        Some(Hash(hash))
    }

    fn record(&mut self) -> Option<Record> {
        let index = self.field("{\"index\":")?;
        self.raw(",\"prev\":")?;
        let prev = self.hash()?;
        let epoch = self.field(",\"epoch\":")?;
        self.raw(",\"at\":")?;
        let at = self.text()?.parse().ok()?;
        let mut renewed = Vec::new();
        if self.skip(",\"renewed\":[[") {
            loop {
                renewed.push((self.number()?, self.field(",")?));
                if !self.skip("],[") {
                    break;
                }
            }
            self.raw("]]")?;
        }
        let upto = self.limit(",\"upto\":")?;
        self.raw(",\"command\":")?;
        let command = self.command()?;
        let mut events = Vec::new();
        if self.skip(",\"events\":[") {
            events.reserve_exact(1);
            loop {
                events.push(self.event()?);
                if !self.skip(",") {
                    break;
                }
            }
            self.raw("]")?;
        }
        self.raw("}")?;
        Some(Record { index, prev, epoch, at, renewed, upto, command, events })
    }

    fn command(&mut self) -> Option<Command> {
        let command = if self.skip("{\"release\":{\"session\":") {
            Command::Release { session: self.number()?, token: self.field(",\"token\":")? }
        } else if self.skip("{\"acquire\":{\"session\":") {
            let (session, seq) = (self.number()?, self.field(",\"seq\":")?);
            let (claims, owner) = (self.claims()?, self.owner()?);
            let priority = self.priority()?;
            let (wait_ms, hold_max_ms) = (self.limit(",\"wait_ms\":")?, self.limit(",\"hold_max_ms\":")?);
            let (reason, value) = (self.said(",\"reason\":")?, self.said(",\"value\":")?);
            Command::Acquire(AcquireCommand {
                session,
                seq,
                claims,
                owner,
                priority,
                wait_ms,
                hold_max_ms,
                reason,
                value,
            })
        } else if self.skip("{\"cancel\":{\"session\":") {
            Command::Cancel { session: self.number()?, seq: self.field(",\"seq\":")? }
        } else if self.skip("\"advance\"") {
            return Some(Command::Advance);
        } else {
            self.raw("\"barrier\"")?;
            return Some(Command::Barrier);
        };
        self.raw("}}")?;
        Some(command)
    }

    fn event(&mut self) -> Option<Event> {
        let event = if self.skip("{\"granted\":{\"session\":") {
            let (session, seq) = (self.number()?, self.field(",\"seq\":")?);
            let owner = self.owner()?;
            self.raw(",\"claims\":[")?;
            let mut claims = Vec::with_capacity(1);
            loop {
                let Claim { resource, mode, permits } = self.claim()?;
                let capacity = self.field(",\"capacity\":")?.try_into().ok()?;
                let floor = self.field(",\"floor\":")?;
                claims.push(ClaimGranted { resource, mode, permits, capacity, floor });
                self.raw("}")?;
                if !self.skip(",") {
                    break;
                }
            }
            self.raw("]")?;
            let priority = self.priority()?;
            let (hold_max_ms, wait_ms) = (self.limit(",\"hold_max_ms\":")?, self.limit(",\"wait_ms\":")?);
            let (reason, value) = (self.said(",\"reason\":")?, self.said(",\"value\":")?);
            Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, reason, value }
        } else if self.skip("{\"released\":{\"token\":") {
            let token = self.number()?;
            self.raw(",\"reason\":\"released\"")?;
            Event::Released { token, reason: Reason::Released, by: None }
        } else {
            let session = self.field("{\"queued\":{\"session\":")?;
            let seq = self.field(",\"seq\":")?;
            let (claims, owner) = (self.claims()?, self.owner()?);
            let priority = self.field(",\"priority\":")?.try_into().ok()?;
            let (wait_ms, hold_max_ms) = (self.limit(",\"wait_ms\":")?, self.limit(",\"hold_max_ms\":")?);
            let (reason, value) = (self.said(",\"reason\":")?, self.said(",\"value\":")?);
            Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value }
        };
        self.raw("}}")?;
        Some(event)
    }

    fn claims(&mut self) -> Option<Vec<Claim>> {
        self.raw(",\"claims\":[")?;
        let mut claims = Vec::with_capacity(1);
        loop {
            claims.push(self.claim()?);
            self.raw("}")?;
            if !self.skip(",") {
                break;
            }
        }
        self.raw("]")?;
        Some(claims)
    }

    /// Without its end.
    fn claim(&mut self) -> Option<Claim> {
        self.raw("{\"resource\":")?;
        let text = self.text()?;
        let resource = match self.name.take() {
            Some(name) if name.as_str() == text => name,
            _ => ResourceName::new(text).ok()?,
        };
        self.name = Some(resource.clone());
        let mode = if self.skip(",\"mode\":\"exclusive\"") {
            Mode::Exclusive
        } else if self.skip(",\"mode\":\"shared\"") {
            Mode::Shared
        } else {
            self.raw(",\"mode\":\"permits\"")?;
            Mode::Permits
        };
        let permits = self.limit(",\"permits\":")?.map(u32::try_from).transpose().ok()?;
        Some(Claim { resource, mode, permits })
    }

    fn owner(&mut self) -> Option<Option<OwnerRef>> {
        if !self.skip(",\"owner\":[") {
            return Some(None);
        }
        let owner = OwnerRef(self.number()?, self.field(",")?);
        self.raw("]")?;
        Some(Some(owner))
    }

    fn priority(&mut self) -> Option<u8> {
        u8::try_from(self.limit(",\"priority\":")?.unwrap_or(0)).ok()
    }

    fn said(&mut self, name: &str) -> Option<Option<Arc<str>>> {
        if self.skip(name) { self.text().map(|text| Some(text.into())) } else { Some(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq_client::wire::PrincipalBy;
    use proptest::option::of;
    use proptest::prelude::*;

    fn texts() -> impl Strategy<Value = Arc<str>> {
        // Plain ones, and those with whatever must be escaped.
        prop_oneof![
            "[a-z/{}0-9]{0,20}",
            "[\"\\\\a\u{0}-\u{1f}\u{7f}ä\u{2028}\u{1f600}]{0,6}",
            any::<String>()
        ]
        .prop_map(Arc::from)
    }

    fn names() -> impl Strategy<Value = ResourceName> {
        prop_oneof!["[a-z/{}0-9]{1,20}", "[\"\\\\a/ä\u{2028}\u{1f600}]{1,6}"]
            .prop_map(|text| ResourceName::new(&text).unwrap())
    }

    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![0..20u64, Just((1 << 53) - 1), any::<u64>()]
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), Just(Mode::Permits)];
        let claim = (names(), mode, of(any::<u32>()));
        prop::collection::vec(
            claim.prop_map(|(resource, mode, permits)| Claim { resource, mode, permits }),
            0..4,
        )
    }

    fn acquires() -> impl Strategy<Value = AcquireCommand> {
        let owner = of((numbers(), numbers()).prop_map(|(session, seq)| OwnerRef(session, seq)));
        let limits = (of(numbers()), of(numbers()));
        (
            numbers(),
            numbers(),
            claims(),
            owner,
            prop_oneof![Just(0), any::<u8>()],
            limits,
            of(texts()),
            of(texts()),
        )
            .prop_map(
                |(session, seq, claims, owner, priority, (wait_ms, hold_max_ms), reason, value)| {
                    AcquireCommand {
                        session,
                        seq,
                        claims,
                        owner,
                        priority,
                        wait_ms,
                        hold_max_ms,
                        reason,
                        value,
                    }
                },
            )
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            4 => acquires().prop_map(Command::Acquire),
            2 => (numbers(), numbers()).prop_map(|(session, token)| Command::Release { session, token }),
            1 => (numbers(), numbers()).prop_map(|(session, seq)| Command::Cancel { session, seq }),
            1 => Just(Command::Advance),
            1 => Just(Command::Barrier),
            1 => numbers().prop_map(|at| Command::Tick { at: Timestamp::from_micros(at) }),
            1 => (texts(), texts()).prop_map(|(by, reason)| Command::Pause { by, reason: reason.to_string() }),
        ]
    }

    fn events() -> impl Strategy<Value = Event> {
        let reasons = prop_oneof![Just(Reason::Released), Just(Reason::Forced), Just(Reason::Cancelled)];
        let granted =
            (acquires(), prop::collection::vec((any::<u32>(), numbers()), 4)).prop_map(|(asked, more)| {
                let AcquireCommand {
                    session,
                    seq,
                    claims,
                    owner,
                    priority,
                    wait_ms,
                    hold_max_ms,
                    reason,
                    value,
                } = asked;
                let claims = claims.into_iter().zip(more).map(|(claim, (capacity, floor))| {
                    let Claim { resource, mode, permits } = claim;
                    ClaimGranted { resource, mode, permits, capacity, floor }
                });
                let claims = claims.collect();
                Event::Granted { session, seq, owner, claims, priority, hold_max_ms, wait_ms, reason, value }
            });
        let queued =
            acquires().prop_map(|asked| {
                let AcquireCommand {
                    session,
                    seq,
                    claims,
                    owner,
                    priority,
                    wait_ms,
                    hold_max_ms,
                    reason,
                    value,
                } = asked;
                Event::Queued { session, seq, claims, owner, priority, wait_ms, hold_max_ms, reason, value }
            });
        prop_oneof![
            4 => granted,
            2 => queued,
            3 => (numbers(), reasons.clone(), of(texts()))
                .prop_map(|(token, reason, by)| Event::Released { token, reason, by }),
            1 => (numbers(), numbers(), reasons)
                .prop_map(|(session, seq, reason)| Event::Refused { session, seq, reason }),
            1 => (texts(), of(texts())).prop_map(|(label, reply_to)| Event::Opened {
                key_hash: Hash([7; 32]),
                lease_ms: 1,
                fail_fast_ms: None,
                in_flight_max: 1,
                principal: label.clone(),
                label,
                principal_by: PrincipalBy::Nobody,
                reply_to,
            }),
        ]
    }

    fn records() -> impl Strategy<Value = Record> {
        let head = (numbers(), any::<[u8; 32]>(), numbers(), numbers());
        let renewed = prop::collection::vec((numbers(), numbers()), 0..3);
        let rest = (renewed, of(numbers()), commands(), prop::collection::vec(events(), 0..3));
        (head, rest).prop_map(|((index, prev, epoch, at), (renewed, upto, command, events))| {
            let (prev, at) = (Hash(prev), Timestamp::from_micros(at));
            Record { index, prev, epoch, at, renewed, upto, command, events }
        })
    }

    /// What must hold of a line, whatever it is: read by hand as by serde, or not at all.
    fn reads_alike(line: &[u8]) -> Result<(), TestCaseError> {
        if let Some(read) = read(line) {
            prop_assert_eq!(serde_json::from_slice::<Record>(line).ok(), Some(read));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn written_as_serde_writes(record in records()) {
            let line = write(&record);
            prop_assert_eq!(
                String::from_utf8_lossy(&line).into_owned(),
                serde_json::to_string(&record).unwrap()
            );
            reads_alike(&line)?;
        }

        #[test]
        fn read_as_serde_reads(
            record in records(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..3),
        ) {
            let mut line = write(&record);
            for (at, byte, edit) in edits {
                let at = at.index(line.len());
                match edit {
                    0 => line[at] = byte,
                    1 => line.insert(at, byte),
                    _ => drop(line.remove(at)),
                }
            }
            reads_alike(&line)?;
        }
    }

    #[test]
    fn the_golden_log_is_written_and_read_alike() {
        let mut by_hand = 0;
        for file in std::fs::read_dir("../client/protocol/golden/log/0").unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = std::fs::read(path).unwrap();
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let record: Record = serde_json::from_slice(line).unwrap();
                assert_eq!(write(&record), line);
                reads_alike(line).unwrap();
                by_hand += usize::from(read(line).is_some());
            }
        }
        assert!(by_hand > 20, "{by_hand} lines are read by hand");
    }
}
