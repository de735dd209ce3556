//! Passing connected sockets from one process to another (SCM_RIGHTS, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Most lanes: a thread of the worker answers on each.
pub const MAX_LANES: usize = 8;

/// Sends at most [`MAX_LANES`] sockets, in one message.
///
/// # Errors
/// Where the other end is gone, or they are too many.
pub fn send_sockets(control: &UnixStream, sockets: &[UnixStream]) -> io::Result<()> {
    let ends: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if ends.len() > MAX_LANES || !message.push(SendAncillaryMessage::ScmRights(&ends)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are too many lanes"));
    }
    sendmsg(control, &[IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives what [`send_sockets`] sent, within the control socket's timeout.
///
/// # Errors
/// `WouldBlock` where none came in time, `UnexpectedEof` where no more will.
pub fn receive_sockets(control: &UnixStream) -> io::Result<Vec<UnixStream>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut message, flags)?;
    let sockets: Vec<UnixStream> = message
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(ends) => Some(ends),
            _ => None,
        })
        .flatten()
        .map(UnixStream::from)
        .collect();
    if received.bytes == 0 || sockets.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(sockets)
}
