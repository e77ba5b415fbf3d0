//! In which network namespace an interface is, and what it is called there.
//!
//! Whoever may can move an interface to another network namespace and rename it. Its descriptor stays with it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use futures_util::StreamExt as _;
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};

nix::ioctl_none_bad!(tungetdevnetns, libc::TUNGETDEVNETNS);
nix::ioctl_read_bad!(tungetiff, libc::TUNGETIFF, libc::ifreq);

/// Follows an interface that was made in the network namespace of this process. The interface stays while this does.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    queue: File,
    home: Namespace,
}

/// Where an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    namespace: Namespace,
    /// Its name there.
    pub(crate) name: String,
}

/// Device and number of the file that stands for a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Namespace(u64, u64);

impl Whereabouts {
    /// Of the interface that this is a queue of, and that is where it was made.
    pub(crate) fn new(queue: File) -> io::Result<Self> {
        let home = identity(&namespace(&queue)?)?;
        Ok(Self { queue, home })
    }

    /// Where the interface is now; an error where it is gone.
    pub(crate) fn look(&self) -> io::Result<Place> {
        Ok(Place { namespace: identity(&namespace(&self.queue)?)?, name: name(&self.queue)? })
    }

    /// What the kernel calls the interface's namespace in the one of this process; `None` where it is the same. Nobody is kept from
    /// removing that namespace.
    pub(crate) async fn number(&self, handle: &Handle) -> io::Result<Option<i32>> {
        let namespace = namespace(&self.queue)?;
        if identity(&namespace)? == self.home {
            return Ok(None);
        }
        if let Some(number) = known(handle, &namespace).await? {
            return Ok(Some(number));
        }
        // Any that is free.
        let any = vec![descriptor(&namespace), NsidAttribute::Id(-1)];
        match request(handle, RouteNetlinkMessage::NewNsId(message(any))).await {
            // Somebody else was quicker.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            answer => drop(answer?),
        }
        known(handle, &namespace).await?.map(Some).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

async fn known(handle: &Handle, namespace: &File) -> io::Result<Option<i32>> {
    let question = message(vec![descriptor(namespace)]);
    let attributes = request(handle, RouteNetlinkMessage::GetNsId(question)).await?;
    // A negative one is none.
    let mut numbers = attributes.into_iter().filter_map(|attribute| {
        if let NsidAttribute::Id(number) = attribute {
            u32::try_from(number).ok()?.try_into().ok()
        } else {
            None
        }
    });
    Ok(numbers.next())
}

/// What the kernel answers.
async fn request(handle: &Handle, message: RouteNetlinkMessage) -> io::Result<Vec<NsidAttribute>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut attributes = Vec::new();
    let mut answers = handle.clone().request(request).map_err(io::Error::other)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = &answer.payload
            && error.raw_code() != 0
        {
            return Err(error.to_io());
        }
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) = answer.payload {
            attributes.extend(message.attributes);
        }
    }
    Ok(attributes)
}

fn message(attributes: Vec<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes = attributes;
    message
}

fn descriptor(namespace: &File) -> NsidAttribute {
    NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned())
}

fn namespace(queue: &File) -> io::Result<File> {
    // SAFETY: TUNGETDEVNETNS takes no argument, and gives a descriptor that nobody else has.
    let namespace = unsafe { OwnedFd::from_raw_fd(tungetdevnetns(queue.as_raw_fd())?) };
    Ok(namespace.into())
}

fn identity(namespace: &File) -> io::Result<Namespace> {
    let metadata = namespace.metadata()?;
    Ok(Namespace(metadata.dev(), metadata.ino()))
}

fn name(queue: &File) -> io::Result<String> {
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `request` is an `ifreq`, as TUNGETIFF fills it in.
    unsafe { tungetiff(queue.as_raw_fd(), &raw mut request) }?;
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0);
    String::from_utf8(name.collect()).map_err(io::Error::other)
}
