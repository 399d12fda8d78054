//! What a program says that runs on, an event as JSON a line: kept, and waited for.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[derive(Default)]
struct Said {
    events: Vec<Value>,
    ended: bool,
}

/// What a program has said.
pub(crate) struct Heard {
    said: Arc<(Mutex<Said>, Condvar)>,
    complaints: Arc<Mutex<String>>,
    /// Events that were waited for end here.
    seen: usize,
    patience: Duration,
}

impl Heard {
    /// Hears this program, whose output and errors are pipes; `patience` guards against hanging.
    pub(crate) fn of(child: &mut Child, patience: Duration) -> Self {
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let complaints = Arc::new(Mutex::new(String::new()));
        listen(child.stdout.take().unwrap(), said.clone());
        let (mut stderr, kept) = (child.stderr.take().unwrap(), complaints.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                kept.lock().unwrap().push_str(&text);
            }
        });
        Self {
            said,
            complaints,
            seen: 0,
            patience,
        }
    }

    /// The next event that has these members; those before it count as seen.
    #[track_caller]
    pub(crate) fn wait(&mut self, like: &Value) -> Value {
        let (deadline, said) = (Instant::now() + self.patience, self.said.clone());
        let (lock, told) = &*said;
        let mut said = lock.lock().unwrap();
        loop {
            let found = said.events[self.seen..]
                .iter()
                .position(|event| is_like(event, like));
            if let Some(at) = found {
                self.seen += at + 1;
                return said.events[self.seen - 1].clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || said.ended {
                let (story, complaints) = (story(&said.events), self.complaints());
                // Whoever is dropped now looks at it too.
                drop(said);
                panic!("no {like} after event {}\n{story}\n{complaints}", self.seen);
            }
            said = told.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Everything heard so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.said.0.lock().unwrap().events.clone()
    }

    /// How many events so far have these members.
    pub(crate) fn count(&self, like: &Value) -> usize {
        self.events().iter().filter(|event| is_like(event, like)).count()
    }

    /// What it wrote to standard error.
    pub(crate) fn complaints(&self) -> String {
        self.complaints.lock().unwrap().clone()
    }

    /// Everything heard so far, a line each.
    pub(crate) fn story(&self) -> String {
        story(&self.events())
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub(crate) fn end_of(&self, child: &mut Child) -> ExitStatus {
        let deadline = Instant::now() + self.patience;
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return status,
                None if Instant::now() > deadline => panic!("it does not end\n{}", self.story()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn listen(stdout: impl Read + Send + 'static, said: Arc<(Mutex<Said>, Condvar)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "not json": line }));
            said.0.lock().unwrap().events.push(event);
            said.1.notify_all();
        }
        said.0.lock().unwrap().ended = true;
        said.1.notify_all();
    });
}

/// Whether `event` has every member of `like`.
pub(crate) fn is_like(event: &Value, like: &Value) -> bool {
    let members = like.as_object().unwrap();
    members.iter().all(|(name, value)| event[name] == *value)
}

fn story(events: &[Value]) -> String {
    events.iter().fold(String::new(), |mut story, event| {
        let _ = writeln!(story, "{event}");
        story
    })
}
