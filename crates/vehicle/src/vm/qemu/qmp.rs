//! The emulator's control channel: JSON lines, one command at a time (QEMU's `docs/interop/qmp-spec.txt`).

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// Time for an answer: the emulator does one thing at a time, and writes memory in between.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Time for a machine's memory to be written or read.
const MIGRATE_WITHIN: Duration = Duration::from_secs(300);

/// Between two looks at how far that is.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Bytes of a line at most.
const MAX_LINE: u64 = 1 << 20;

/// Why the emulator did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// It refused.
    #[error("the emulator refuses `{command}`: {why}")]
    Refused {
        /// What.
        command: &'static str,
        /// In its words.
        why: String,
    },
    /// It says nothing.
    #[error("the emulator does not answer `{0}`")]
    Silent(&'static str),
    /// It is gone, or says what is no answer.
    #[error("the channel to the emulator is broken")]
    Broken(#[from] io::Error),
}

/// The channel.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    /// As the emulator says it, with its package.
    version: String,
}

impl Qmp {
    pub(super) async fn open(stream: UnixStream) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream: BufReader::new(stream),
            version: String::new(),
        };
        // It greets first.
        let greeting = timeout(ANSWER_WITHIN, qmp.line())
            .await
            .map_err(|_late| QmpError::Silent("greeting"))??;
        if let Some(version) = greeting.pointer("/QMP/version") {
            qmp.version = version.to_string();
        }
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Does one command.
    pub(super) async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let mut question = json!({ "execute": command });
        if let (Some(fields), false) = (question.as_object_mut(), arguments.is_null()) {
            fields.insert("arguments".to_owned(), arguments);
        }
        let answered = timeout(ANSWER_WITHIN, async {
            self.stream.write_all(format!("{question}\n").as_bytes()).await?;
            loop {
                let answer = self.line().await?;
                if let Some(error) = answer.get("error") {
                    let why = error
                        .get("desc")
                        .and_then(Value::as_str)
                        .unwrap_or("no reason given");
                    return Err(QmpError::Refused {
                        command,
                        why: why.to_owned(),
                    });
                }
                // Whatever else it says are events.
                if let Some(answer) = answer.get("return") {
                    return Ok(answer.clone());
                }
            }
        });
        answered.await.map_err(|_late| QmpError::Silent(command))?
    }

    /// Whether memory that is shared with a file stays there instead of being written to the stream.
    pub(super) async fn ignore_shared(&mut self, ignores: bool) -> Result<(), QmpError> {
        let capability = json!([{ "capability": "x-ignore-shared", "state": ignores }]);
        self.execute("migrate-set-capabilities", json!({ "capabilities": capability }))
            .await
            .map(drop)
    }

    /// Waits until the machine's state is written, or read.
    pub(super) async fn migrated(&mut self) -> Result<(), QmpError> {
        let look = async {
            loop {
                let status = self.execute("query-migrate", Value::Null).await?;
                match status.get("status").and_then(Value::as_str) {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let why = status.get("error-desc").and_then(Value::as_str);
                        return Err(QmpError::Refused {
                            command: "migrate",
                            why: why.unwrap_or("it failed").to_owned(),
                        });
                    }
                    _ => sleep(LOOK_AGAIN).await,
                }
            }
        };
        timeout(MIGRATE_WITHIN, look)
            .await
            .map_err(|_late| QmpError::Silent("migrate"))?
    }

    /// The emulator ends at once.
    pub(super) async fn quit(&mut self) {
        // It may be gone before it has answered.
        let _ = self.execute("quit", Value::Null).await;
    }

    async fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an emulator says, line by line, each after one of ours was heard but the first.
    async fn played(said: Vec<&'static str>) -> Result<Value, QmpError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let play = async move {
            let mut theirs = BufReader::new(theirs);
            for (number, line) in said.iter().enumerate() {
                if number > 0 {
                    let mut heard = String::new();
                    theirs.read_line(&mut heard).await.unwrap();
                }
                theirs.write_all(line.as_bytes()).await.unwrap();
            }
        };
        let ask = async { Qmp::open(ours).await?.execute("stop", Value::Null).await };
        tokio::join!(play, ask).1
    }

    #[tokio::test]
    async fn answers_are_told_from_events_and_refusals_keep_their_words() {
        let greeting = "{\"QMP\":{}}\n";
        let done = "{\"return\":{}}\n";
        let event = "{\"event\":\"STOP\"}\n{\"return\":{\"a\":1}}\n";
        assert_eq!(
            played(vec![greeting, done, event]).await.unwrap(),
            json!({"a": 1})
        );
    }

    #[tokio::test]
    async fn an_emulator_that_refuses_babbles_or_leaves_is_an_error() {
        let refused = played(vec![
            "{\"QMP\":{}}\n",
            "{\"return\":{}}\n",
            "{\"error\":{\"desc\":\"no way\"}}\n",
        ])
        .await;
        assert!(refused.unwrap_err().to_string().contains("no way"));
        assert!(matches!(
            played(vec!["nonsense\n"]).await,
            Err(QmpError::Broken(_))
        ));
        assert!(matches!(
            played(vec!["{\"QMP\":{}}\n"]).await,
            Err(QmpError::Broken(_))
        ));
    }
}
