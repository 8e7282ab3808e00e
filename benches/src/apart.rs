//! A program beside this one: told lines, it answers each with one, and it ends with its input.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::subject::Failure;

/// Killed when dropped, unless it has [ended](Apart::end).
#[derive(Debug)]
pub(crate) struct Apart {
    program: String,
    talk: Mutex<Talk>,
}

#[derive(Debug)]
struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Apart {
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|e| format!("{program}: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("its output is piped")?);
        Ok(Apart { program, talk: Mutex::new(Talk { child, input, output: BufReader::new(output) }) })
    }

    pub(crate) fn tell(&self, line: &str) -> Result<(), Failure> {
        let mut talk = self.talk();
        Ok(writeln!(talk.input.as_mut().ok_or("its input is piped")?, "{line}")?)
    }

    pub(crate) fn hear(&self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.talk().output.read_line(&mut line)? == 0 {
            return Err(format!("{} ended in the middle", self.program).into());
        }
        Ok(line)
    }

    /// The figures it answers with.
    pub(crate) fn ask(&self, line: &str) -> Result<Vec<f64>, Failure> {
        self.tell(line)?;
        let answer = self.hear()?;
        let figures = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        figures.map_err(|_| format!("{} said {:?}", self.program, answer.trim()).into())
    }

    /// Lets it end, and sees that it did so in good order.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let mut talk = self.talk();
        drop(talk.input.take());
        let status = talk.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", self.program).into()) }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let talk = self.talk.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = talk.child.kill();
        let _ = talk.child.wait();
    }
}
