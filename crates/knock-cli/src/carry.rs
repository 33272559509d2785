//! Carries a connection on standard input and output, as nc does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// The most bytes of one step: a pipe holds 64 KiB.
const STEP: usize = 64 << 10;

/// Copies in both directions until both have ended. Each can end by itself: the end of standard input closes the
/// sending half of the connection, and the end of what the host sends closes standard output.
pub(crate) fn carry(stream: TcpStream) -> io::Result<()> {
    // Keystrokes must not wait for each other.
    stream.set_nodelay(true)?;
    let mut receiver = stream.try_clone()?;
    let mut sender = stream;
    let (mut input, mut output) = standard_streams()?;
    let sending = thread::spawn(move || {
        // A host that has closed the connection is no error of this program: the program at the other end of standard
        // output notices it.
        let _ = copy(&mut input, &mut sender);
        let _ = sender.shutdown(Shutdown::Write);
    });
    let received = copy(&mut receiver, &mut output);
    drop(output);
    let open = close_standard_output();
    match received {
        // Nobody reads any more, or the connection is dead: what standard input still has is of no use.
        Err(_) => Ok(()),
        Ok(()) if !open => Ok(()),
        Ok(()) => {
            let _ = sending.join();
            Ok(())
        }
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Standard input and output without the buffers of std.
#[cfg(unix)]
fn standard_streams() -> io::Result<(File, File)> {
    use std::os::fd::AsFd;
    let (input, output) = (io::stdin(), io::stdout());
    Ok((input.as_fd().try_clone_to_owned()?.into(), output.as_fd().try_clone_to_owned()?.into()))
}

#[cfg(windows)]
fn standard_streams() -> io::Result<(File, File)> {
    use std::os::windows::io::AsHandle;
    let (input, output) = (io::stdin(), io::stdout());
    Ok((input.as_handle().try_clone_to_owned()?.into(), output.as_handle().try_clone_to_owned()?.into()))
}

/// Lets the reader of standard output see its end. Whether it worked.
#[cfg(unix)]
fn close_standard_output() -> bool {
    File::options().write(true).open("/dev/null").is_ok_and(|null| rustix::stdio::dup2_stdout(null).is_ok())
}

/// std has no way to do so here: the end of the program does it.
#[cfg(not(unix))]
fn close_standard_output() -> bool {
    false
}
