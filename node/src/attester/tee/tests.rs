use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Mutex as StdMutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use carrick_attest::{
    Bytes, Moment, Subject,
    policy::ClusterPolicy,
    tdx::testing::{Platform, Recipe},
};
use carrick_types::{IdentitySecret, MeshId, UnixTime, WireGuardSecret};

use super::{
    super::{AttesterError, Attesters, EvidenceSources},
    tsm::{Files, MAX_ATTRIBUTE, Provider},
    *,
};

const DATA: [u8; 64] = [0x5a; 64];

/// configfs-tsm, as the kernel behaves, with whatever a test wants to go wrong.
#[derive(Debug, Default)]
struct Kernel {
    /// What the directories hold.
    reports: StdMutex<BTreeMap<String, Written>>,
    provider: &'static str,
    outblob: Vec<u8>,
    auxblob: Option<Vec<u8>>,
    /// Errors of the next operations, by name, before they go well.
    errors: StdMutex<VecDeque<(&'static str, i32)>>,
    /// How often somebody else writes between our write and our read.
    intruders: AtomicU32,
    made: AtomicU32,
}

#[derive(Debug, Default)]
struct Written {
    generation: u64,
    inblob: Vec<u8>,
}

impl Kernel {
    fn of(provider: &'static str) -> Self {
        Self { provider, outblob: b"report".to_vec(), ..Self::default() }
    }

    fn failing(self, errors: &[(&'static str, i32)]) -> Self {
        Self { errors: StdMutex::new(errors.iter().copied().collect()), ..self }
    }

    fn fails(&self, operation: &str) -> io::Result<()> {
        let mut errors = self.errors.lock().unwrap();
        match errors.front() {
            Some((name, number)) if *name == operation => {
                let error = io::Error::from_raw_os_error(*number);
                errors.pop_front();
                Err(error)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn left(&self) -> usize {
        self.reports.lock().unwrap().len()
    }
}

impl Files for Arc<Kernel> {
    fn make(&self, report: &str) -> io::Result<()> {
        self.made.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.fails("make") {
            if error.kind() == io::ErrorKind::AlreadyExists {
                let stale = Written { generation: 7, inblob: b"of another".to_vec() };
                self.reports.lock().unwrap().insert(report.to_owned(), stale);
            }
            return Err(error);
        }
        match self.reports.lock().unwrap().entry(report.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Written::default());
                Ok(())
            }
        }
    }

    fn remove(&self, report: &str) -> io::Result<()> {
        let removed = self.reports.lock().unwrap().remove(report);
        removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, report: &str, attribute: &str) -> io::Result<Vec<u8>> {
        self.fails(attribute)?;
        let mut reports = self.reports.lock().unwrap();
        let Some(written) = reports.get_mut(report) else { return Err(io::ErrorKind::NotFound.into()) };
        match attribute {
            "provider" => Ok(format!("{}\n", self.provider).into_bytes()),
            "generation" => Ok(format!("{}\n", written.generation).into_bytes()),
            "outblob" if written.inblob.is_empty() => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            "outblob" => {
                if self.intruders.load(Ordering::Relaxed) > 0 {
                    self.intruders.fetch_sub(1, Ordering::Relaxed);
                    written.generation += 1;
                }
                Ok([self.outblob.as_slice(), &written.inblob].concat())
            }
            "auxblob" => self.auxblob.clone().ok_or_else(|| io::ErrorKind::NotFound.into()),
            other => panic!("nobody reads {other}"),
        }
    }

    fn write(&self, report: &str, attribute: &str, bytes: &[u8]) -> io::Result<()> {
        self.fails("write")?;
        assert_eq!(attribute, "inblob");
        let mut reports = self.reports.lock().unwrap();
        let written = reports.get_mut(report).unwrap();
        written.inblob = bytes.to_vec();
        written.generation += 1;
        Ok(())
    }
}

fn tsm(kernel: Kernel) -> (Arc<Kernel>, Tsm<Arc<Kernel>>) {
    let kernel = Arc::new(kernel);
    (Arc::clone(&kernel), Tsm::new(kernel, Provider::TdxGuest))
}

/// A device that answers from a recording.
#[derive(Debug)]
struct Recorded(Report);

impl Device for Recorded {
    fn report(&self, _: &[u8; 64]) -> Result<Report, DeviceError> {
        Ok(self.0.clone())
    }
}

fn recorded(bytes: &[u8], auxiliary: &[u8]) -> Arc<dyn Device> {
    Arc::new(Recorded(Report { bytes: bytes.to_vec(), auxiliary: auxiliary.to_vec() }))
}

/// A TD of a platform of our own.
#[derive(Debug)]
struct Td(Platform);

impl Device for Td {
    fn report(&self, data: &[u8; 64]) -> Result<Report, DeviceError> {
        // With zeros behind the quote, as real platforms have them.
        Ok(Report { bytes: [self.0.quote(data).as_slice(), &[0; 70]].concat(), auxiliary: Vec::new() })
    }
}

#[test]
fn a_report_of_configfs_holds_our_bytes_and_leaves_nothing_behind() {
    let (kernel, device) = tsm(Kernel { auxblob: Some(b"table".to_vec()), ..Kernel::of("tdx_guest") });
    let report = device.report(&DATA).unwrap();
    assert_eq!(report.bytes, [b"report".as_slice(), &DATA].concat());
    assert_eq!(report.auxiliary, b"table");
    assert_eq!(kernel.left(), 0);
    let (_, without) = tsm(Kernel::of("tdx_guest"));
    assert_eq!(without.report(&DATA).unwrap().auxiliary, b"");
}

#[test]
fn a_report_that_fails_at_any_step_leaves_nothing_behind() {
    for step in ["make", "provider", "generation", "write", "outblob", "auxblob"] {
        let (kernel, device) = tsm(Kernel::of("tdx_guest").failing(&[(step, libc::EIO)]));
        let error = device.report(&DATA).unwrap_err();
        assert!(!error.is_transient(), "{step}");
        assert_eq!(kernel.left(), 0, "{step}");
        device.report(&DATA).unwrap();
    }
}

#[test]
fn a_report_that_somebody_else_wrote_into_is_made_again_and_never_taken() {
    let (kernel, device) = tsm(Kernel { intruders: 2.into(), ..Kernel::of("tdx_guest") });
    device.report(&DATA).unwrap();
    assert_eq!(kernel.made.load(Ordering::Relaxed), 3);
    let (kernel, device) = tsm(Kernel { intruders: 1000.into(), ..Kernel::of("tdx_guest") });
    let error = device.report(&DATA).unwrap_err();
    assert!(error.to_string().contains("somebody else"), "{error}");
    assert_eq!(kernel.left(), 0);
}

#[test]
fn an_attribute_that_is_too_long_is_refused() {
    let (kernel, device) = tsm(Kernel { outblob: vec![0; MAX_ATTRIBUTE], ..Kernel::of("tdx_guest") });
    let error = device.report(&DATA).unwrap_err();
    assert!(error.to_string().contains("outblob has more than"), "{error}");
    assert_eq!(kernel.left(), 0);
}

#[test]
fn the_report_of_an_agent_that_was_killed_is_cleared_away() {
    let (kernel, device) = tsm(Kernel::of("tdx_guest").failing(&[("make", libc::EEXIST)]));
    assert_eq!(device.report(&DATA).unwrap().bytes, [b"report".as_slice(), &DATA].concat());
    assert_eq!(kernel.left(), 0);
}

#[test]
fn the_provider_says_the_kind_and_one_that_is_missing_or_unknown_is_none() {
    for (name, expected) in [
        ("sev_guest", Some(Provider::SevGuest)),
        ("tdx_guest", Some(Provider::TdxGuest)),
        ("arm_cca_guest", None),
        ("", None),
    ] {
        let kernel = Arc::new(Kernel::of(name));
        assert_eq!(tsm::provider(&kernel).unwrap(), expected, "{name}");
        assert_eq!(kernel.left(), 0);
    }
    for missing in [libc::ENXIO, libc::ENOENT] {
        let kernel = Arc::new(Kernel::of("tdx_guest").failing(&[("make", missing)]));
        assert_eq!(tsm::provider(&kernel).unwrap(), None);
    }
    let kernel = Arc::new(Kernel::of("tdx_guest").failing(&[("make", libc::EACCES)]));
    tsm::provider(&kernel).unwrap_err();
    let (_, changed) = tsm(Kernel::of("sev_guest"));
    assert!(changed.report(&DATA).unwrap_err().to_string().contains("another provider"));
}

#[test]
fn the_files_of_configfs_are_read_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let files = Configfs::new(dir.path().to_owned());
    files.make("r").unwrap();
    assert_eq!(files.make("r").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    fs::write(dir.path().join("r/outblob"), vec![7; 2 * MAX_ATTRIBUTE]).unwrap();
    assert_eq!(files.read("r", "outblob").unwrap().len(), MAX_ATTRIBUTE + 1);
    fs::write(dir.path().join("r/inblob"), b"").unwrap();
    files.write("r", "inblob", &DATA).unwrap();
    assert_eq!(files.read("r", "inblob").unwrap(), DATA);
    files.write("r", "nothing", &DATA).unwrap_err();
    fs::remove_file(dir.path().join("r/inblob")).unwrap();
    fs::remove_file(dir.path().join("r/outblob")).unwrap();
    files.remove("r").unwrap();
    assert_eq!(tsm::provider(&Configfs::new("/nonexistent/tsm".into())).unwrap(), None);
}

#[test]
fn what_is_busy_is_asked_again_and_what_is_broken_is_not() {
    let pause = Duration::from_micros(1);
    for passing in [libc::EBUSY, libc::EINTR, libc::EAGAIN] {
        let (_, device) = tsm(Kernel::of("tdx_guest").failing(&[("outblob", passing), ("write", passing)]));
        patiently(pause, || device.report(&DATA)).unwrap();
        let forever = [("outblob", passing); 100];
        let (kernel, device) = tsm(Kernel::of("tdx_guest").failing(&forever));
        patiently(pause, || device.report(&DATA)).unwrap_err();
        assert_eq!(kernel.made.load(Ordering::Relaxed), TRIES);
    }
    let (kernel, device) = tsm(Kernel::of("tdx_guest").failing(&[("outblob", libc::EFBIG)]));
    patiently(pause, || device.report(&DATA)).unwrap_err();
    assert_eq!(kernel.made.load(Ordering::Relaxed), 1);
}

#[test]
fn a_host_without_devices_has_no_attesters() {
    let nowhere = TeeSources {
        tsm: "/nonexistent/tsm".into(),
        sev_guest: "/nonexistent/sev-guest".into(),
        nsm: "/nonexistent/nsm".into(),
        sev_snp_certificate: None,
    };
    assert!(open(&nowhere).is_empty());
    let dir = tempfile::tempdir().unwrap();
    let (guest, nsm) = (dir.path().join("sev-guest"), dir.path().join("nsm"));
    fs::write(&guest, b"").unwrap();
    fs::write(&nsm, b"").unwrap();
    let both = TeeSources { sev_guest: guest, nsm, ..nowhere };
    let kinds: Vec<_> = open(&both).iter().map(|attester| attester.kind()).collect();
    assert_eq!(kinds, [Kind::SevSnp, Kind::Nitro]);
}

#[test]
fn a_report_of_sev_snp_comes_with_the_certificate_of_the_host_or_of_a_file() {
    let report = || Report { bytes: vec![0; 1184], auxiliary: Vec::new() };
    let why = evidence(Kind::SevSnp, report(), None).unwrap_err();
    assert!(why.contains("--sev-snp-certificate"), "{why}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vcek.der");
    assert!(evidence(Kind::SevSnp, report(), Some(&file)).unwrap_err().contains("vcek.der"));
    fs::write(&file, b"not a certificate").unwrap();
    assert!(evidence(Kind::SevSnp, report(), Some(&file)).unwrap_err().contains("DER or PEM"));
    fs::write(&file, b"0der").unwrap();
    let Evidence::SevSnp(made) = evidence(Kind::SevSnp, report(), Some(&file)).unwrap() else { panic!() };
    assert_eq!(
        (made.report.as_bytes(), made.certificate.as_bytes()),
        ([0; 1184].as_slice(), b"0der".as_slice())
    );
    let long = Report { bytes: vec![0; 100_000], auxiliary: Vec::new() };
    assert!(evidence(Kind::SevSnp, long, Some(&file)).unwrap_err().contains("too long"));
}

#[test]
fn what_is_no_quote_or_too_long_makes_no_evidence() {
    let report = |bytes: &[u8]| Report { bytes: bytes.to_vec(), auxiliary: Vec::new() };
    evidence(Kind::Tdx, report(b"no quote"), None).unwrap_err();
    evidence(Kind::Nitro, report(&[0; 100_000]), None).unwrap_err();
    let Evidence::Nitro(made) = evidence(Kind::Nitro, report(b"document"), None).unwrap() else { panic!() };
    assert_eq!(made.document.as_bytes(), b"document");
}

/// Blocks until it is let go, and says when it was asked.
#[derive(Debug)]
struct Hanging {
    asked: AtomicU32,
    go: StdMutex<mpsc::Receiver<()>>,
}

impl Device for Hanging {
    fn report(&self, _: &[u8; 64]) -> Result<Report, DeviceError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _ = self.go.lock().unwrap().recv();
        Ok(Report { bytes: b"document".to_vec(), auxiliary: Vec::new() })
    }
}

#[tokio::test]
async fn a_device_that_hangs_is_given_up_and_not_asked_twice_at_once() {
    let (let_go, go) = mpsc::channel();
    let device = Arc::new(Hanging { asked: 0.into(), go: StdMutex::new(go) });
    let mut attester = TeeAttester::new(Kind::Nitro, Arc::clone(&device) as Arc<dyn Device>, None);
    attester.deadline = Duration::from_millis(100);
    let transcript = Transcript::from_bytes(DATA);
    for _ in 0..2 {
        let why = attester.attest(&transcript).await.unwrap_err();
        assert!(why.contains("did not answer"), "{why}");
    }
    assert!(device.asked.load(Ordering::SeqCst) <= 1, "the first question still holds the device");
    drop(let_go);
    attester.deadline = Duration::from_secs(60);
    attester.attest(&transcript).await.unwrap();
}

fn subject() -> Subject {
    Subject {
        mesh: MeshId::from_bytes([1; 16]),
        cluster: "east".parse().unwrap(),
        identity_key: IdentitySecret::from_bytes([2; 32]).public(),
        wireguard_key: WireGuardSecret::from_bytes([3; 32]).public(),
    }
}

fn moment() -> Moment {
    Moment {
        log_size: 1,
        log_head: Bytes([4; 32]),
        salt: Bytes([5; 32]),
        exporter: Bytes([6; 32]),
        policy_version: 1,
        runtime_digest: Bytes([7; 32]),
    }
}

#[tokio::test]
async fn what_a_td_shows_is_accepted_by_a_policy_that_pins_its_platform() {
    let platform = Platform::new(Recipe::default());
    let policy = platform.policy();
    let sources = with_device(Arc::new(Td(platform)));
    let attesters = Attesters::new(&sources);
    let cluster = ClusterPolicy {
        accept: vec![BTreeSet::from([Kind::SevSnp]), BTreeSet::from([Kind::Tdx])],
        ..ClusterPolicy::default()
    };
    let kinds = attesters.choose((&subject().cluster, &cluster), false).await.unwrap();
    assert_eq!(kinds, BTreeSet::from([Kind::Tdx]));
    let shown = attesters.attest(&kinds, &moment(), &subject()).await.unwrap();
    let [Evidence::Tdx(shown)] = shown.as_slice() else { panic!("{shown:?}") };
    let now = UnixTime::from_millis(1_800_000_000_000);
    let mine = moment().transcript(&subject(), Kind::Tdx);
    assert_eq!(tdx::appraise(shown, &policy, &mine, now).refusal(), None);
    let of_snp = moment().transcript(&subject(), Kind::SevSnp);
    let refused = tdx::appraise(shown, &policy, &of_snp, now);
    assert_eq!(refused.refusal().unwrap().name, "report data", "of another kind");
}

#[tokio::test]
async fn a_device_that_fails_and_a_kind_that_is_missing_are_said_so() {
    let sources = with_device(recorded(b"no quote", b""));
    let attesters = Attesters::new(&sources);
    let failed = attesters.attest(&BTreeSet::from([Kind::Tdx]), &moment(), &subject()).await.unwrap_err();
    assert!(matches!(failed, AttesterError::Device { kind: Kind::Tdx, .. }), "{failed}");
    let cluster = ClusterPolicy { accept: vec![BTreeSet::from([Kind::Nitro])], ..ClusterPolicy::default() };
    let missing = attesters.choose((&subject().cluster, &cluster), true).await.unwrap_err();
    assert!(missing.to_string().contains("nitro"), "{missing}");
}

/// A host with nothing but a TDX device.
fn with_device(device: Arc<dyn Device>) -> EvidenceSources {
    EvidenceSources { devices: vec![(Kind::Tdx, device)], ..EvidenceSources::default() }
}
