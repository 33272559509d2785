//! Services that send back what they get.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::error::{Attempt, Result};
use crate::namespace::Namespace;

/// An echo service on a port, until dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<rustix::fd::OwnedFd>,
    thread: Option<JoinHandle<()>>,
    accepted: Arc<AtomicUsize>,
}

impl Echo {
    /// On a TCP port, every address of both families.
    pub fn tcp(namespace: &Namespace, port: u16) -> Result<Echo> {
        let listener =
            namespace.run(|| TcpListener::bind(("::", port)))?.attempt(|| format!("listen on {port}/tcp"))?;
        let stop = stop_event()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&accepted));
        let thread = thread::spawn(move || {
            let open: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());
            thread::scope(|scope| {
                while readable(&listener, &stopped) {
                    let Ok((stream, _)) = listener.accept() else { continue };
                    count.fetch_add(1, Ordering::Relaxed);
                    if let (Ok(clone), Ok(mut open)) = (stream.try_clone(), open.lock()) {
                        open.push(clone);
                    }
                    scope.spawn(move || echo(stream));
                }
                for stream in open.lock().iter().flat_map(|open| open.iter()) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        });
        Ok(Echo { stop, thread: Some(thread), accepted })
    }

    /// On a UDP port, every address of both families.
    pub fn udp(namespace: &Namespace, port: u16) -> Result<Echo> {
        let socket = namespace.run(|| UdpSocket::bind(("::", port)))?.attempt(|| format!("listen on {port}/udp"))?;
        let stop = stop_event()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&accepted));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while readable(&socket, &stopped) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let peer: SocketAddr = peer;
                let _ = socket.send_to(&buffer[..length], peer);
            }
        });
        Ok(Echo { stop, thread: Some(thread), accepted })
    }

    /// How many connections were accepted, or datagrams received.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stop_event() -> Result<Arc<rustix::fd::OwnedFd>> {
    eventfd(0, EventfdFlags::CLOEXEC).map(Arc::new).attempt(|| "make an eventfd".to_owned())
}

/// Waits until `socket` has something, `true`, or the service is to stop, `false`.
fn readable(socket: &impl std::os::fd::AsFd, stop: &rustix::fd::OwnedFd) -> bool {
    let mut both = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    loop {
        match poll(&mut both, None) {
            Ok(_) => return both[1].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
