//! What goes to the arbiter: a client's messages, and the arbiter's letters to itself.

use super::line;
use super::names::check_text;
use super::{
    ADDRESS_BYTES_MAX, Claim, ID_BYTES_MAX, INTEGER_MAX, LABEL_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN,
    LIMIT_MS_MAX, MESSAGE_BYTES_MAX, Nonce, PRIORITY_MAX, REASON_BYTES_MAX, Reason, ResourceName, Seq,
    SessionId, SessionKey, Timestamp, Token, VALUE_BYTES_MAX, VERSION, put,
};
use serde::{Deserialize, Serialize};

/// One message to the arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The partition it is for.
    pub partition: u32,
    /// The session it is of, once there is one, with the proof that the sender may speak for it.
    pub auth: Option<Auth>,
    /// What is asked.
    pub body: RequestBody,
}

/// A session's number and its secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Auth {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub key: SessionKey,
}

/// Most messages are shorter.
const REQUEST_BYTES_USUAL: usize = 256;

macro_rules! bodies {
    ($($(#[$doc:meta])* $kind:ident: $variant:ident($body:ty),)*) => {
        /// What a message asks. On the wire the kind is the name of the one field that holds the rest.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum RequestBody {
            $($(#[$doc])* $variant($body),)*
        }

        impl RequestBody {
            /// The name of every kind on the wire.
            pub const KINDS: &[&str] = &[$(stringify!($kind)),*];

            /// The kind's name on the wire.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($kind),)* }
            }
        }

        impl Request {
            /// The bytes of the message: one JSON object without a line feed.
            pub fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(REQUEST_BYTES_USUAL);
                put(&mut bytes, "{\"v\":", &VERSION);
                put(&mut bytes, ",\"partition\":", &self.partition);
                if let Some(Auth { session, key }) = &self.auth {
                    put(&mut bytes, ",\"session\":", session);
                    put(&mut bytes, ",\"key\":", key);
                }
                match &self.body {
                    $(RequestBody::$variant(body) => put(&mut bytes, concat!(",\"", stringify!($kind), "\":"), body),)*
                }
                bytes.push(b'}');
                bytes
            }
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            v: u32,
            partition: u32,
            #[serde(default)]
            session: Option<SessionId>,
            #[serde(default)]
            key: Option<SessionKey>,
            $(#[serde(default)] $kind: Option<$body>,)*
        }

        impl Raw {
            /// The one body; none or several are no message.
            fn body(&mut self) -> Option<RequestBody> {
                let mut found = None;
                $(if let Some(body) = self.$kind.take() {
                    if found.is_some() { return None; }
                    found = Some(RequestBody::$variant(body));
                })*
                found
            }
        }
    };
}

bodies! {
    /// Opens a session.
    open: Open(Open),
    /// Tells where a session's replies go from now on.
    attach: Attach(Attach),
    /// Asks for claims.
    acquire: Acquire(Acquire),
    /// Gives a grant back, or acknowledges its loss.
    release: Release(Release),
    /// Withdraws a request.
    cancel: Cancel(Cancel),
    /// Keeps the session alive.
    keep_alive: KeepAlive(KeepAlive),
    /// Ends the session.
    close: Close(Close),
    /// Looks.
    status: Status(StatusAsk),
    /// An operator takes a grant away.
    force_release: ForceRelease(ForceRelease),
    /// An operator stops granting; requests still queue.
    pause: Pause(Pause),
    /// An operator lets granting go on.
    resume: Resume(Resume),
    /// The arbiter's letter to itself: what is due by its `at` is due.
    tick: Tick(Tick),
    /// The arbiter's letter to itself: a reply came back, or a connection ended.
    gone: Gone(Gone),
    /// A standby's knock on an idle queue. The active arbiter drops it.
    nudge: Nudge(Nudge),
}

const KINDS: &[&str] = RequestBody::KINDS;

/// `open`: a session is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Correlates the answer.
    pub id: String,
    /// The session's secret, chosen by the client. Sent again with the same key, an `open` opens nothing new.
    pub key: SessionKey,
    /// How long the session lives without word from it.
    pub lease_ms: u64,
    /// End the session so soon after its replies came back. Needs a transport that shows presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_fast_ms: Option<u64>,
    /// What people see as the holder's name.
    pub label: String,
    /// Where replies go; the transport's own field, or the connection itself, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The client's own end of the connection as the client sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// `attach`: replies go here from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Rises with every attach of the session; one that does not is too old to count.
    pub n: u64,
    /// Where replies go; the connection itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The client's own end of the connection as the client sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// A request, named as the root of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OwnerRef(
    /// The session.
    pub SessionId,
    /// The request in it.
    pub Seq,
);

/// `acquire`: claims are wanted, all of them at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// The request's number in its session.
    pub seq: Seq,
    /// What is wanted.
    pub claims: Vec<Claim>,
    /// For the same owner as that request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerRef>,
    /// Wait at most so long; 0 is try; absent is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Hold at most so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_max_ms: Option<u64>,
    /// Higher goes first; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Why, for people and for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What watchers see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// `release`: a grant is given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Which.
    pub token: Token,
}

/// `cancel`: a request is withdrawn, whether it waits, is held, or has not arrived yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Which.
    pub seq: Seq,
}

/// `keep_alive`: the session lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepAlive {
    /// Rises with every sending; one that does not renews nothing.
    pub n: u64,
}

/// `close`: the session is over; everything in it is given back or withdrawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {}

/// `status`: a look, as of a record sealed after the question arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusAsk {
    /// Correlates the answer.
    pub id: String,
    /// At what.
    pub what: StatusWhat,
}

/// What a `status` looks at. The lists are bounded: the answer says how many there are in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusWhat {
    /// Numbers only.
    Summary,
    /// Who holds what.
    Holders,
    /// Each resource that is held or waited for.
    Resources,
    /// One resource's holders and queue.
    Queue(ResourceName),
}

/// `force_release`: an operator takes a grant away, if it is still the one named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceRelease {
    /// Correlates the answer.
    pub id: String,
    /// The resource that is meant.
    pub resource: ResourceName,
    /// The grant that is meant; nothing happens if it is not in force.
    pub token: Token,
    /// Why, for the record.
    pub reason: String,
    /// Do not wait for the holder to hear; lean on fencing alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

/// `pause`: stop granting, keep queueing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Correlates the answer.
    pub id: String,
    /// Why, for the record.
    pub reason: String,
}

/// `resume`: grant again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Correlates the answer.
    pub id: String,
    /// Why, for the record.
    pub reason: String,
}

/// `tick`: what is due by `at` is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tick {
    /// Known only to the activation that sent it.
    pub nonce: Nonce,
    /// The deciding moment.
    pub at: Timestamp,
}

/// `gone`: nobody is at a session's address any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// Known only to the activation that sent it.
    pub nonce: Nonce,
    /// Whose.
    pub session: SessionId,
    /// The request whose first grant came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The number of the `attach` whose address it was.
    pub n: u64,
    /// What was seen.
    pub cause: Cause,
}

/// What was seen of an absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A broker returned a reply: a hint, not proof.
    Returned,
    /// The session's own connection ended, with no proxy between: its process is gone.
    Closed,
}

/// `nudge`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nudge {}

/// A message that cannot be taken: why, and whom the refusal concerns as far as could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct DecodeError {
    /// The reason for the refusal.
    pub reason: Reason,
    /// What was wrong, for people; quotes no secret.
    pub detail: String,
    /// The partition, if it was named.
    pub partition: Option<u32>,
    /// The correlation id, if there was one.
    pub id: Option<String>,
    /// The session, if it was named.
    pub session: Option<SessionId>,
    /// The request's number, if there was one.
    pub seq: Option<Seq>,
    /// The token, if there was one.
    pub token: Option<Token>,
}

impl Request {
    /// A message of a session.
    pub fn of(partition: u32, session: SessionId, key: SessionKey, body: RequestBody) -> Self {
        Self { partition, auth: Some(Auth { session, key }), body }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// Anything that is not exactly a message of [`VERSION`] within its limits, with the reason to refuse it with.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            let detail = format!("{} bytes, the limit is {MESSAGE_BYTES_MAX}", bytes.len());
            return Err(DecodeError::of(Reason::MessageTooLong, detail));
        }
        let request = line::read(bytes).map_or_else(|| Self::by_serde(bytes), Ok)?;
        request.check().map_err(|(reason, detail)| DecodeError::about(bytes, reason, detail))?;
        Ok(request)
    }

    /// The message that a line is, not yet checked against the limits.
    pub(super) fn by_serde(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Serde would also take the fields of a struct in an array, by their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(DecodeError::of(Reason::Malformed, "not one JSON object".into()));
        }
        let mut raw: Raw = serde_json::from_slice(bytes).map_err(|e| diagnose(bytes, &e))?;
        if raw.v != VERSION {
            let detail = format!("version {}, this arbiter speaks {VERSION}", raw.v);
            return Err(DecodeError::about(bytes, Reason::UnknownVersion, detail));
        }
        let auth = match (raw.session.take(), raw.key.take()) {
            (Some(session), Some(key)) => Some(Auth { session, key }),
            (None, None) => None,
            _ => {
                let detail = "session and key go together".into();
                return Err(DecodeError::about(bytes, Reason::SessionNeeded, detail));
            }
        };
        let Some(body) = raw.body() else {
            let detail = format!("exactly one of {} is wanted", KINDS.join(", "));
            return Err(DecodeError::about(bytes, Reason::UnknownKind, detail));
        };
        Ok(Self { partition: raw.partition, auth, body })
    }

    /// Whether every value is within its limits, and the session is named where one is needed.
    ///
    /// # Errors
    /// The reason to refuse it with, and what was wrong.
    pub fn check(&self) -> Result<(), (Reason, String)> {
        use RequestBody as B;
        let text = |what: &str, text: &str, bytes_max: usize| {
            check_text(what, text, bytes_max).map_err(|e| (Reason::InvalidText, e.to_string()))
        };
        let optional = |what: &str, value: &Option<String>, bytes_max: usize| {
            value.as_deref().map_or(Ok(()), |value| text(what, value, bytes_max))
        };
        let key = |key: &SessionKey| key.check().map_err(|e| (Reason::InvalidKey, e.to_string()));
        if let Some(auth) = &self.auth {
            number("session", auth.session, INTEGER_MAX)?;
            key(&auth.key)?;
        }
        match &self.body {
            B::Open(open) => {
                text("id", &open.id, ID_BYTES_MAX)?;
                text("label", &open.label, LABEL_BYTES_MAX)?;
                optional("reply_to", &open.reply_to, ADDRESS_BYTES_MAX)?;
                optional("peer", &open.peer, ADDRESS_BYTES_MAX)?;
                key(&open.key)?;
                let lengths = [("lease_ms", Some(open.lease_ms)), ("fail_fast_ms", open.fail_fast_ms)];
                for (what, ms) in lengths.into_iter().filter_map(|(what, ms)| Some((what, ms?))) {
                    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&ms) {
                        let detail = format!("{what} is {ms}, wanted {LEASE_MS_MIN} to {LEASE_MS_MAX}");
                        return Err((Reason::LeaseOutOfRange, detail));
                    }
                }
                if self.auth.is_some() {
                    return Err((Reason::UnknownField, "open is sent without session and key".into()));
                }
            }
            B::Attach(attach) => {
                number("n", attach.n, INTEGER_MAX)?;
                optional("reply_to", &attach.reply_to, ADDRESS_BYTES_MAX)?;
                optional("peer", &attach.peer, ADDRESS_BYTES_MAX)?;
            }
            B::Acquire(acquire) => {
                number("seq", acquire.seq, INTEGER_MAX)?;
                Claim::check_all(&acquire.claims)?;
                if let Some(OwnerRef(session, seq)) = acquire.owner {
                    number("owner", session.max(seq), INTEGER_MAX)?;
                }
                number("wait_ms", acquire.wait_ms.unwrap_or(0), LIMIT_MS_MAX)?;
                number("hold_max_ms", acquire.hold_max_ms.unwrap_or(0), LIMIT_MS_MAX)?;
                number("priority", acquire.priority.unwrap_or(0).into(), PRIORITY_MAX.into())?;
                optional("reason", &acquire.reason, REASON_BYTES_MAX)?;
                optional("value", &acquire.value, VALUE_BYTES_MAX)?;
            }
            B::Release(release) => number("token", release.token, INTEGER_MAX)?,
            B::Cancel(cancel) => number("seq", cancel.seq, INTEGER_MAX)?,
            B::KeepAlive(keep_alive) => number("n", keep_alive.n, INTEGER_MAX)?,
            B::Status(status) => {
                text("id", &status.id, ID_BYTES_MAX)?;
                if let StatusWhat::Queue(resource) = &status.what {
                    resource.check().map_err(|e| (Reason::InvalidResource, e.to_string()))?;
                }
            }
            B::ForceRelease(force) => {
                text("id", &force.id, ID_BYTES_MAX)?;
                text("reason", &force.reason, REASON_BYTES_MAX)?;
                number("token", force.token, INTEGER_MAX)?;
                force.resource.check().map_err(|e| (Reason::InvalidResource, e.to_string()))?;
            }
            B::Pause(Pause { id, reason }) | B::Resume(Resume { id, reason }) => {
                text("id", id, ID_BYTES_MAX)?;
                text("reason", reason, REASON_BYTES_MAX)?;
            }
            B::Gone(gone) => number("session", gone.session.max(gone.n), INTEGER_MAX)?,
            B::Close(_) | B::Tick(_) | B::Nudge(_) => {}
        }
        let of_a_session = matches!(
            self.body,
            B::Attach(_) | B::Acquire(_) | B::Release(_) | B::Cancel(_) | B::KeepAlive(_) | B::Close(_)
        );
        if of_a_session && self.auth.is_none() {
            return Err((Reason::SessionNeeded, format!("{} needs session and key", self.body.kind())));
        }
        Ok(())
    }
}

fn number(what: &str, value: u64, max: u64) -> Result<(), (Reason, String)> {
    if value <= max {
        return Ok(());
    }
    Err((Reason::InvalidNumber, format!("{what} is {value}, the limit is {max}")))
}

impl DecodeError {
    /// A refusal that does not say of which message.
    pub fn of(reason: Reason, detail: String) -> Self {
        Self { reason, detail, partition: None, id: None, session: None, seq: None, token: None }
    }

    /// The same refusal, of this message.
    pub fn naming(mut self, request: &Request) -> Self {
        use RequestBody as B;
        self.partition = Some(request.partition);
        self.session = request.auth.as_ref().map(|auth| auth.session);
        (self.id, self.seq, self.token) = match &request.body {
            B::Open(Open { id, .. })
            | B::Status(StatusAsk { id, .. })
            | B::ForceRelease(ForceRelease { id, .. })
            | B::Pause(Pause { id, .. })
            | B::Resume(Resume { id, .. }) => (Some(id.clone()), None, None),
            B::Acquire(Acquire { seq, .. }) | B::Cancel(Cancel { seq }) => (None, Some(*seq), None),
            B::Release(Release { token }) => (None, None, Some(*token)),
            B::Attach(_) | B::KeepAlive(_) | B::Close(_) | B::Tick(_) | B::Gone(_) | B::Nudge(_) => {
                (None, None, None)
            }
        };
        self
    }

    /// The refusal with whatever names the message: read leniently, for the message itself may be no good.
    fn about(bytes: &[u8], reason: Reason, detail: String) -> Self {
        let value = serde_json::from_slice(bytes).unwrap_or(serde_json::Value::Null);
        let inner = KINDS.iter().find_map(|kind| value.get(kind));
        let number = |name: &str| inner?.get(name)?.as_u64().filter(|n| *n <= INTEGER_MAX);
        let partition = value.get("partition").and_then(serde_json::Value::as_u64);
        let id = inner.and_then(|inner| inner.get("id")?.as_str()).filter(|id| id.len() <= ID_BYTES_MAX);
        Self {
            reason,
            detail,
            partition: partition.and_then(|partition| u32::try_from(partition).ok()),
            id: id.filter(|id| !id.chars().any(char::is_control)).map(str::to_owned),
            session: value.get("session").and_then(serde_json::Value::as_u64).filter(|n| *n <= INTEGER_MAX),
            seq: number("seq"),
            token: number("token"),
        }
    }
}

/// Why serde would not take it, in the protocol's words. Only refused messages pay for this second look.
fn diagnose(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(bytes) else {
        // The position, not the text: serde quotes what it found, and that may be a secret.
        let detail = format!("not one JSON object (line {}, column {})", error.line(), error.column());
        return DecodeError::of(Reason::Malformed, detail);
    };
    let version = fields.get("v").and_then(serde_json::Value::as_u64);
    if version.is_some_and(|v| v != u64::from(VERSION)) {
        let detail = format!("version {}, this arbiter speaks {VERSION}", version.unwrap_or_default());
        return DecodeError::about(bytes, Reason::UnknownVersion, detail);
    }
    let envelope = ["v", "partition", "session", "key"];
    let known_kind = fields.keys().any(|name| KINDS.contains(&name.as_str()));
    let stray =
        fields.keys().find(|name| !envelope.contains(&name.as_str()) && !KINDS.contains(&name.as_str()));
    let shown = |name: &str| name.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
    if let Some(stray) = stray {
        let reason = if known_kind { Reason::UnknownField } else { Reason::UnknownKind };
        return DecodeError::about(bytes, reason, shown(stray));
    }
    let text = error.to_string();
    let field = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let (reason, detail) = match field {
        Some((field, _)) => (Reason::UnknownField, shown(field)),
        None => (
            Reason::Malformed,
            format!(
                "a field is missing, doubled or of the wrong type (line {}, column {})",
                error.line(),
                error.column()
            ),
        ),
    };
    DecodeError::about(bytes, reason, detail)
}
