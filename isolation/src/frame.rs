//! What goes over a lane: a request, an answer, a request, and so on. Each is a frame: four bytes of length, big-endian, and
//! that many bytes.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

/// Writes a frame of at most `longest` bytes.
///
/// # Errors
/// `InvalidInput` for a longer one: nothing is written then.
pub fn send(stream: &mut impl Write, body: &[u8], longest: usize) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= longest);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is longer than a frame"))?;
    // One write: the other end wakes once. A frame may hold a secret.
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + body.len()));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

/// Reads a frame of at most `longest` bytes; none where the other end closed the lane between two. It is wiped on drop.
///
/// # Errors
/// `InvalidData` for a longer one: the lane is of no use any more.
pub fn receive(stream: &mut impl Read, longest: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; 4];
    let mut read = 0;
    while let Some(rest) = length.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if read == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than allowed"));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_nothing_longer_does() {
        let mut stream = Vec::new();
        for body in [b"".as_slice(), b"a", &[7; 100]] {
            send(&mut stream, body, 100).unwrap();
        }
        let before = stream.len();
        assert_eq!(send(&mut stream, &[0; 101], 100).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(stream.len(), before);
        let mut reader = stream.as_slice();
        for body in [b"".as_slice(), b"a", &[7; 100]] {
            assert_eq!(receive(&mut reader, 100).unwrap().unwrap().as_slice(), body);
        }
        assert!(receive(&mut reader, 100).unwrap().is_none());
        // Longer than allowed, cut in its length, cut in its body.
        assert_eq!(receive(&mut [0, 0, 0, 101].as_slice(), 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
        for cut in [&[0][..], &[0, 0, 0, 2, 1]] {
            assert_eq!(receive(&mut &*cut, 100).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
