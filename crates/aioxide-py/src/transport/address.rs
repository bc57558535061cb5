//! Socket addresses as Python's `socket` module shows and takes them.
//!
//! May touch: nothing but its input. Knows IPv4, IPv6 and Unix addresses; other families are left
//! to the socket object's own methods, and so is everything that must be looked up or refused.
//! *Source*: `socket` documentation, "Socket families".

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use aioxide_core::backend::sys::SocketAddress;

use crate::ffi::call::{dict, dict_set, exact_tuple, int, string, tuple, utf8};
use crate::ffi::object::none_ref;
use crate::ffi::{Obj, R, Ref, bytes};
use crate::state::state;

/// The largest flow information of an IPv6 address: it has 20 bits.
const FLOW_MAX: u32 = 0xfffff;

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

/// The addresses of an accepted connection's two ends, until somebody asks for them.
pub struct Ends {
    /// In Python's form; connections accepted one after the other mostly share it.
    sockname: Ref,
    peer: Peer,
}

/// An address in little room.
enum Peer {
    Inet4(Ipv4Addr, u16),
    /// The kernel's form.
    Inet6(Box<[u8; INET6_BYTES]>),
}

/// An IPv6 address in the kernel's form.
const INET6_BYTES: usize = size_of::<libc::sockaddr_in6>();

impl Ends {
    /// `None` for addresses that are not known here.
    pub fn new(sockname: Ref, peer: &SocketAddress) -> Option<Ends> {
        let raw = peer.as_bytes();
        let peer = match peer.family() {
            libc::AF_INET => {
                Peer::Inet4(part::<4>(raw, 4)?.into(), u16::from_be_bytes(part(raw, 2)?))
            }
            libc::AF_INET6 => Peer::Inet6(part::<INET6_BYTES>(raw, 0)?.into()),
            _ => return None,
        };
        Some(Ends { sockname, peer })
    }

    /// The dict of extra info.
    pub fn into_extra(self) -> R<Ref> {
        let names = &state().names;
        let extra = dict()?;
        dict_set(extra.obj(), names.sockname.obj(), self.sockname.obj())?;
        let peer = match self.peer {
            Peer::Inet4(host, port) => SocketAddress::inet4(host, port),
            Peer::Inet6(raw) => SocketAddress::from_bytes(&*raw),
        };
        let peername = to_python(&peer)?.unwrap_or_else(none_ref);
        dict_set(extra.obj(), names.peername.obj(), peername.obj())?;
        Ok(extra)
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
    let host = string(&inet6_text(Ipv6Addr::from(host)))?;
    let port = int(u16::from_be_bytes(port).into())?;
    let flow = int(u32::from_be_bytes(flow).into())?;
    let scope = int(u32::from_ne_bytes(scope).into())?;
    tuple(&[host.obj(), port.obj(), flow.obj(), scope.obj()]).map(Some)
}

/// The text of an IPv6 address as `inet_ntop` writes it: one that holds an IPv4 address behind
/// zeros shows that in dots.
fn inet6_text(host: Ipv6Addr) -> String {
    let segments = host.segments();
    if segments[..6] == [0; 6] && segments[6] != 0 {
        let [.., a, b, c, d] = host.octets();
        return format!("::{}", Ipv4Addr::new(a, b, c, d));
    }
    host.to_string()
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

/// The kernel's form of an address of `family` that a program gave; `None` for what needs the
/// socket object: names to look up, subclasses, and whatever it will refuse.
pub fn from_python(family: i32, address: Obj<'_>) -> R<Option<SocketAddress>> {
    match family {
        libc::AF_INET => inet4_from(address),
        libc::AF_INET6 => inet6_from(address),
        libc::AF_UNIX => unix_from(address),
        _ => Ok(None),
    }
}

fn number<T: TryFrom<i64>>(object: Obj<'_>) -> R<Option<T>> {
    if !object.is_exact_int() {
        return Ok(None);
    }
    let value = crate::ffi::builtin::saturating_i64(object)?;
    Ok(T::try_from(value).ok())
}

fn inet4_from(address: Obj<'_>) -> R<Option<SocketAddress>> {
    let Some([host, port]) = exact_tuple(address) else {
        return Ok(None);
    };
    let host = utf8(host).and_then(|text| text.parse::<Ipv4Addr>().ok());
    let port = number::<u16>(port)?;
    Ok(host
        .zip(port)
        .map(|(host, port)| SocketAddress::inet4(host, port)))
}

fn inet6_from(address: Obj<'_>) -> R<Option<SocketAddress>> {
    let (host, port, flow, scope) = if let Some([host, port]) = exact_tuple(address) {
        (host, port, None, None)
    } else if let Some([host, port, flow]) = exact_tuple(address) {
        (host, port, Some(flow), None)
    } else if let Some([host, port, flow, scope]) = exact_tuple(address) {
        (host, port, Some(flow), Some(scope))
    } else {
        return Ok(None);
    };
    let optional = |given: Option<Obj<'_>>| given.map_or(Ok(Some(0)), number::<u32>);
    let host = utf8(host).and_then(|text| text.parse::<Ipv6Addr>().ok());
    let (port, flow, scope) = (number::<u16>(port)?, optional(flow)?, optional(scope)?);
    let (Some(host), Some(port), Some(flow), Some(scope)) = (host, port, flow, scope) else {
        return Ok(None);
    };
    Ok((flow <= FLOW_MAX).then(|| SocketAddress::inet6(host, port, flow, scope)))
}

fn unix_from(address: Obj<'_>) -> R<Option<SocketAddress>> {
    if address.is_exact_str() {
        let path = bytes::of_path(address)?;
        return Ok(bytes::slice(path.obj()).and_then(SocketAddress::unix));
    }
    if address.is_exact_bytes() {
        return Ok(bytes::slice(address).and_then(SocketAddress::unix));
    }
    Ok(None)
}
