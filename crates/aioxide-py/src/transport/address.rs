//! Socket addresses as Python's `socket` module shows them.
//!
//! May touch: nothing but its input. Knows IPv4, IPv6 and Unix addresses; other families are left
//! to the socket object's own methods. *Source*: `socket` documentation, "Socket families".

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use aioxide_core::backend::sys::SocketAddress;

use crate::ffi::call::{int, string, tuple};
use crate::ffi::{R, Ref, bytes};

/// The Python form of `address`, or `None` for a family that is not known here.
pub fn to_python(address: &SocketAddress) -> R<Option<Ref>> {
    let raw = address.as_bytes();
    match address.family() {
        libc::AF_INET => inet4(raw),
        libc::AF_INET6 => inet6(raw),
        libc::AF_UNIX => unix(raw).map(Some),
        _ => Ok(None),
    }
}

/// `N` bytes of a kernel address, from `start`; `None` where it is shorter.
fn part<const N: usize>(raw: &[u8], start: usize) -> Option<[u8; N]> {
    raw.get(start..)?.first_chunk::<N>().copied()
}

/// `(host, port)`.
fn inet4(raw: &[u8]) -> R<Option<Ref>> {
    let (Some(port), Some(host)) = (part::<2>(raw, 2), part::<4>(raw, 4)) else {
        return Ok(None);
    };
    let host = string(&Ipv4Addr::from(host).to_string())?;
    let port = int(u16::from_be_bytes(port).into())?;
    tuple(&[host.obj(), port.obj()]).map(Some)
}

/// `(host, port, flow information, scope)`.
fn inet6(raw: &[u8]) -> R<Option<Ref>> {
    let (Some(port), Some(flow)) = (part::<2>(raw, 2), part::<4>(raw, 4)) else {
        return Ok(None);
    };
    let (Some(host), Some(scope)) = (part::<16>(raw, 8), part::<4>(raw, 24)) else {
        return Ok(None);
    };
    let host = string(&Ipv6Addr::from(host).to_string())?;
    let port = int(u16::from_be_bytes(port).into())?;
    let flow = int(u32::from_be_bytes(flow).into())?;
    let scope = int(u32::from_ne_bytes(scope).into())?;
    tuple(&[host.obj(), port.obj(), flow.obj(), scope.obj()]).map(Some)
}

/// A path as `str`, an abstract name as `bytes`, and the empty text for a socket without a name.
fn unix(raw: &[u8]) -> R<Ref> {
    match raw.get(2..).unwrap_or_default() {
        [] => string(""),
        name @ [0, ..] => bytes::new(name),
        path => {
            let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
            bytes::path_text(path)
        }
    }
}
