//! Servers that fail at one point of a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The behaviour of a server for one connection.
pub(crate) type Act = Arc<dyn Fn(&mut Peer) -> io::Result<()> + Send + Sync>;

/// Wraps a closure as an [`Act`].
pub(crate) fn act(act: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Act {
    Arc::new(act)
}

/// A server on a free port. Each connection has its own thread, and TLS if there is a configuration.
pub(crate) struct Server {
    pub(crate) port: u16,
    open: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(tls: Option<Arc<ServerConfig>>, act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (count, over) = (Arc::clone(&open), Arc::clone(&is_over));
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (tls, act, count) = (tls.clone(), Arc::clone(&act), Arc::clone(&count));
                let over = Arc::clone(&over);
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // The client may close at any time.
                    let _ = Peer::new(tcp, tls, over).and_then(|mut peer| act(&mut peer));
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, open, is_over }
    }

    /// After the client's end, a blocked connection reads its remaining bytes: the end of the connection follows them.
    pub(crate) fn client_ended(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// The server's side of a connection.
pub(crate) struct Peer {
    tcp: TcpStream,
    tls: Option<StreamOwned<ServerConnection, TcpStream>>,
    is_over: Arc<AtomicBool>,
}

impl Peer {
    fn new(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, is_over: Arc<AtomicBool>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let tls = match tls {
            Some(config) => {
                let connection = ServerConnection::new(config).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(connection, tcp.try_clone()?);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Some(stream)
            }
            None => None,
        };
        Ok(Self { tcp, tls, is_over })
    }

    /// Reads everything and sends nothing, until the client closes.
    pub(crate) fn silence(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65536];
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }

    /// Neither reads nor writes, until the client has ended.
    pub(crate) fn block(&mut self) -> io::Result<()> {
        while !self.is_over.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(20));
        }
        self.silence()
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_linger(&self.tcp, Some(Duration::ZERO))?;
        self.tls = None;
        Ok(())
    }

    /// The TCP connection below TLS.
    pub(crate) fn below_tls(&self) -> io::Result<TcpStream> {
        self.tcp.try_clone()
    }

    /// Closes the sending side of TCP without close_notify, and reads until the end.
    pub(crate) fn close_tcp(&mut self) -> io::Result<()> {
        self.tcp.shutdown(Shutdown::Write)?;
        self.silence()
    }

    /// Closes the sending side with close_notify, and reads until the end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.conn.send_close_notify();
            tls.flush()?;
        }
        self.close_tcp()
    }

    /// Sends one byte at a time.
    pub(crate) fn send_slowly(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            self.write_all(&[*byte])?;
            self.flush()?;
            thread::park_timeout(pause);
        }
        Ok(())
    }

    /// Sends the same bytes until the client closes.
    pub(crate) fn send_endlessly(&mut self, bytes: &[u8]) -> io::Result<()> {
        loop {
            self.write_all(bytes)?;
        }
    }

    /// Reads the head of an HTTP request, and the body if there is a Content-Length.
    pub(crate) fn request(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.read(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        self.read_exact(&mut vec![0; length])?;
        Ok(head)
    }

    /// Reads an upgrade request, and responds like Azure Relay.
    pub(crate) fn upgrade(&mut self) -> io::Result<()> {
        let request = self.request()?;
        self.write_all(switching_protocols(&request).as_bytes())?;
        self.flush()
    }

    /// Sends one unmasked frame. `first` contains FIN, the reserved bits and the opcode (RFC 6455, section 5.2).
    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        self.frame_head(first, payload.len() as u64)?;
        self.write_all(payload)?;
        self.flush()
    }

    /// Sends the head of a frame with this length.
    pub(crate) fn frame_head(&mut self, first: u8, length: u64) -> io::Result<()> {
        let mut head = vec![first];
        match length {
            0..=125 => head.push(length as u8),
            126..=0xffff => {
                head.push(126);
                head.extend((length as u16).to_be_bytes());
            }
            _ => {
                head.push(127);
                head.extend(length.to_be_bytes());
            }
        }
        self.write_all(&head)
    }

    /// Sends a Close frame with a code and a reason, and closes.
    pub(crate) fn close(&mut self, code: u16, reason: &[u8]) -> io::Result<()> {
        self.frame(CLOSE, &[&code.to_be_bytes(), reason].concat())?;
        self.finish()
    }

    /// Reads one frame of the client. Returns its first byte and the unmasked payload.
    pub(crate) fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.read_exact(&mut head)?;
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.read_array()?)),
            127 => u64::from_be_bytes(self.read_array()?),
            short => u64::from(short),
        };
        let mask: [u8; 4] = self.read_array()?;
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.read_exact(&mut payload)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok((head[0], payload))
    }

    fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// FIN and opcode of a binary message, a Close frame and a ping.
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// The 101 response to an upgrade request (RFC 6455, section 4.2.2).
pub(crate) fn switching_protocols(request: &str) -> String {
    let accept = accept_key(header(request, "sec-websocket-key").unwrap_or_default());
    format!(
        "HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(buffer),
            None => self.tcp.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(bytes),
            None => self.tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(),
            None => Ok(()),
        }
    }
}
