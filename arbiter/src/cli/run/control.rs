//! The pipe between `run` and its guard: JSON lines over a socket pair, and the command's standard input beside
//! one of them.

use arbiterq_client::Access;
use arbiterq_client::clock::Micros;
use arbiterq_client::wire::{SessionId, SessionKey};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What `run` tells its guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ToGuard {
    /// The session to close when `run` is gone.
    Session {
        /// The arbiter's URL, as it was given.
        url: String,
        /// The files by which it is reached.
        access: Access,
        /// The partition it is in.
        partition: u32,
        /// Its number.
        session: SessionId,
        /// Its secret.
        key: SessionKey,
        /// How long it lives without word: so long it makes sense to try.
        lease: Micros,
    },
    /// Start the command. Its standard input comes beside this message.
    Start {
        /// The program and its arguments; bytes, for they need not be UTF-8.
        command: Vec<Vec<u8>>,
        /// Variables to set.
        variables: Vec<(String, String)>,
        /// Until when it may run, on the boot-time clock.
        deadline: Micros,
        /// The lease in force.
        lease: Micros,
        /// From TERM to KILL.
        kill_after: Micros,
    },
    /// The lease was renewed.
    Deadline(Micros),
    /// A signal for the command.
    Signal(i32),
    /// The grant is lost: stop the command.
    Stop {
        /// Somebody else may hold it already.
        at_once: bool,
    },
    /// All is given back: leave.
    Done,
}

/// What the guard tells `run`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromGuard {
    /// The command runs, in a process group of this number.
    Started(i32),
    /// The command could not be started.
    Failed {
        /// `ENOENT` and the like.
        errno: i32,
        /// In words.
        message: String,
    },
    /// No renewal came in time: the command is being stopped, or was not started.
    Lapse,
    /// The command was stopped by this signal, and may be continued.
    Suspended(i32),
    /// Nothing of the command is left.
    Ended {
        /// How the command itself ended.
        exit: Exit,
        /// It was being stopped when it ended.
        stopped: bool,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// More than any command line: what is longer is no message of ours.
const LINE_BYTES_MAX: usize = 32 << 20;

/// One end of the pipe.
pub(super) struct Control {
    stream: UnixStream,
    buffer: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Control {
    /// Over this end of a socket pair. Needs a runtime.
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(end);
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, buffer: Vec::new(), files: Vec::new() })
    }

    /// Sends a message, with a file beside it if there is one.
    ///
    /// Not cancel safe: dropped half-way, half a line may be sent.
    pub(super) async fn send<T: Serialize>(
        &self,
        message: &T,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut files = file.into_iter().collect::<Vec<_>>();
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut beside = SendAncillaryBuffer::new(&mut space);
                    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&files)) {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                    Ok(sendmsg(&self.stream, &[IoSlice::new(rest)], &mut beside, SendFlags::NOSIGNAL)?)
                })
                .await?;
            files.clear();
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// Sends as much of these bytes as goes without waiting, and takes that off them.
    pub(super) fn send_now(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.stream, bytes, flags) {
                Ok(sent) => drop(bytes.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message; none at the end of the pipe.
    ///
    /// # Cancel safety
    /// Safe: what was received is kept.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Self { stream, buffer, files } = self;
            let received = stream
                .async_io(Interest::READABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut beside = RecvAncillaryBuffer::new(&mut space);
                    let mut bytes = [0; 16 * 1024];
                    let slices = &mut [IoSliceMut::new(&mut bytes)];
                    let message = recvmsg(&*stream, slices, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
                    for more in beside.drain() {
                        if let RecvAncillaryMessage::ScmRights(more) = more {
                            files.extend(more);
                        }
                    }
                    buffer.extend_from_slice(&bytes[..message.bytes]);
                    Ok(message.bytes)
                })
                .await?;
            if received == 0 {
                return Ok(None);
            }
        }
    }

    /// The file that came beside a message.
    pub(super) fn take_file(&mut self) -> Option<OwnedFd> {
        self.files.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    fn pair() -> (Control, Control) {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        (Control::new(one.into()).unwrap(), Control::new(other.into()).unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_a_file_beside_its_own() {
        let (run, mut guard) = pair();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        run.send(&ToGuard::Signal(2), None).await.unwrap();
        let start = ToGuard::Start {
            command: vec![b"caf\xe9".to_vec()],
            variables: Vec::new(),
            deadline: 1,
            lease: 2,
            kill_after: 3,
        };
        run.send(&start, Some(reader.as_fd())).await.unwrap();
        assert!(matches!(guard.receive().await.unwrap(), Some(ToGuard::Signal(2))));
        let Some(ToGuard::Start { command, .. }) = guard.receive().await.unwrap() else { panic!() };
        assert_eq!(command, [b"caf\xe9"]);
        let mut passed = std::fs::File::from(guard.take_file().unwrap());
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        passed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        drop(run);
        assert!(guard.receive::<ToGuard>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_larger_than_the_socket_takes_at_once() {
        let (run, mut guard) = pair();
        let command = vec![vec![7; 1 << 20]; 2];
        let (variables, deadline, lease, kill_after) = (Vec::new(), 0, 0, 0);
        let start = ToGuard::Start { command, variables, deadline, lease, kill_after };
        let (sent, received) = tokio::join!(run.send(&start, None), guard.receive::<ToGuard>());
        sent.unwrap();
        assert!(
            matches!(received.unwrap(), Some(ToGuard::Start { command, .. }) if command[1].len() == 1 << 20)
        );
    }
}
