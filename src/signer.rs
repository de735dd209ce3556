//! `keywitness signer`: the process that uses the keys of a manager's tokens and log.

use std::path::{Path, PathBuf};

use anyhow::Context;
use keywitness_manager::{
    Config, Settings,
    settings::{LogFormat, SignerMode},
    signer::{
        Signer, Spec, adopt,
        process::{Remote, confine, examine, serve_at, supervise, work},
    },
};

use crate::{Global, config, data, output};

/// This very program, even where its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

/// Run the signer of a manager as a user of its own, or see how well it is shut in here
///
/// A manager signs nothing itself. By default it starts its signer: a process that has the keys, reads its own directory
/// (DATA/signer) alone, has no network, and signs only tokens, status lists and a log that never goes back. With --listen it runs
/// as another user instead, so that the manager's user cannot read the keys: it reads the manager's settings (trust domain, id and
/// signer), which then have signer.mode = "socket" and signer.socket = SOCKET.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness --data /var/lib/keywitness-signer signer --config /etc/keywitness/manager.toml \
--listen /run/keywitness-signer/socket --allow-user keywitness"
)]
pub(crate) struct Args {
    /// Answer at this socket until stopped
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
    /// A user who may call besides this one: a number, or a name in /etc/passwd; may be given again
    #[arg(long, value_name = "USER", requires = "listen")]
    allow_user: Vec<String>,
    /// Be shut in like a signer, try what it must not be able to do, and tell; exit code 1 where something is not in force
    #[arg(long, conflicts_with = "listen")]
    doctor: bool,
    /// The manager's settings; DATA/manager.toml when left out, if it is there
    #[arg(long, value_name = "FILE", env = config::FILE_VARIABLE)]
    config: Option<PathBuf>,
    #[command(flatten)]
    over: config::Over,
    /// The process that starts workers, on behalf of a manager
    #[arg(long, hide = true, value_name = "SPEC")]
    supervise: Option<String>,
    /// The process that has the keys
    #[arg(long, hide = true, value_name = "SPEC")]
    work: Option<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let spec = |text: &str| serde_json::from_str::<Spec>(text).context("the spec of a signer");
    if let Some(text) = &args.supervise {
        return Ok(supervise(Path::new(PROGRAM), flags(global.json), &spec(text)?)?);
    }
    if let Some(text) = &args.work {
        return Ok(work(&spec(text)?)?);
    }
    if args.doctor {
        return doctor(global);
    }
    let Some(socket) = &args.listen else {
        anyhow::bail!("say where to listen (--listen SOCKET), or --doctor; a manager starts its own signer");
    };
    data::make_dir(&global.data)?;
    let settings = config::load(global, args.config.clone(), &args.over.pairs())?.settings;
    let users = args.allow_user.iter().map(|user| uid(user)).collect::<anyhow::Result<Vec<_>>>()?;
    let spec = settings.config()?.signer().absolute()?;
    let (json, shown) = (global.json, socket.clone());
    let ready = move || {
        if !json {
            say!("signer of {} at {}", spec_origin(&settings), shown.display());
        }
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "systemd could not be told");
        }
    };
    Ok(serve_at(&spec, socket, &users, ready)?)
}

fn spec_origin(settings: &Settings) -> String {
    settings.config().map(|config| config.signer().origin).unwrap_or_default()
}

/// The signer that a manager's settings name. Afterwards this process cannot read the keys, where the signer is another.
pub(crate) fn of_manager(global: &Global, settings: &Settings, config: &Config) -> anyhow::Result<Box<dyn Signer>> {
    let spec = config.signer();
    if settings.signer == SignerMode::Socket {
        return Ok(Box::new(Remote::connect(&settings.signer_socket)?));
    }
    data::make_dir(&config.data_dir)?;
    adopt(&config.data_dir, &spec.directory)?;
    let spec = spec.absolute()?;
    if settings.signer == SignerMode::InProcess {
        tracing::warn!("the keys of tokens and log are in the manager's own process (signer.mode)");
        return Ok(Box::new(spec.open()?));
    }
    let json = global.json || settings.log_format == LogFormat::Json;
    let signer = Remote::spawn(Path::new(PROGRAM), flags(json), &spec)?;
    let enforced = confine::keep_out(&spec.directory, std::slice::from_ref(&config.data_dir));
    tracing::info!(landlock = ?enforced, directory = %spec.directory.display(), "started a signer, and gave up its directory");
    Ok(Box::new(signer))
}

fn flags(json: bool) -> &'static [&'static str] {
    if json { &["--json"] } else { &[] }
}

fn doctor(global: &Global) -> anyhow::Result<()> {
    data::make_dir(&global.data)?;
    let directory = std::path::absolute(data::Data(&global.data).signer())?;
    let found = examine(&Spec { directory, origin: "examination".to_owned(), pkcs11: None })?;
    if global.json {
        output::json(&found)?;
    } else {
        let yes = |yes: bool| if yes { "yes" } else { "NO" };
        say!("landlock in force:                       {:?}", found.landlock);
        say!("its own directory can be written:        {}", yes(found.own_directory));
        say!("files elsewhere are refused:             {}", yes(found.files_refused));
        say!("sockets are refused:                     {}", yes(found.sockets_refused));
        say!("starting programs is refused:            {}", yes(found.programs_refused));
        say!("no core dump, no look into its memory:   {}", yes(found.not_dumpable));
        say!("no new privileges:                       {}", yes(found.no_new_privileges));
        say!("system calls are filtered:               {}", yes(found.filtered));
        say!("memory that is never swapped:            {} kB", found.locked_kilobytes);
    }
    if found.is_whole() {
        return Ok(());
    }
    Err(output::No("a signer is not shut in wholly on this machine".to_owned()).into())
}

/// A user's number.
fn uid(user: &str) -> anyhow::Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line.first() == Some(&user));
    let number = line.and_then(|line| line.get(2)?.parse().ok());
    number.with_context(|| format!("there is no user {user} in /etc/passwd; give the user's number"))
}
