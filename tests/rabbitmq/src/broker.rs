//! A `rabbitmq-server`.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tasklock_tests::servers::{Folder, free_port, make_certificates, until};

/// Where Debian has the programs themselves; those on the path change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const COOKIE: &str = "TASKLOCKTESTS";

/// Starts the broker with a name server of its own, both in sessions of their own. When its input ends, and that is when
/// the test's process does, however it does, or when both are told to end, it kills them and removes the folder; told to `keep` it, not the folder.
const GUARD: &str = r#"
trap : HUP INT TERM
setsid epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" </dev/null >/dev/null 2>&1 & names=$!
setsid "$SERVER" </dev/null >>"$HOME/output" 2>&1 & server=$!
echo $server >"$HOME/pid.new"; mv "$HOME/pid.new" "$HOME/pid"
read -r order
kill -s KILL -- "-$server" "-$names" 2>/dev/null
wait
[ "$order" = keep ] || rm -rf "$HOME"
"#;

/// What a broker is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Terms of the application `rabbit`, as its advanced configuration has them.
    pub rabbit: String,
    /// Whether it also listens by TLS, with a certificate for `localhost`.
    pub tls: bool,
}

/// A broker of its own: node, ports, folder, name server. Killed when dropped, or with the process.
#[derive(Debug)]
pub struct Broker {
    home: Folder,
    port: u16,
    tls_port: u16,
    tls: bool,
    environment: Vec<(&'static str, String)>,
    guard: Mutex<Option<Child>>,
}

impl Broker {
    /// The one that the tests of a program share.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::start(Settings::default()))
    }

    /// One of a test's own.
    ///
    /// # Panics
    ///
    /// If it does not start; the message names the package of a program that is missing.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let server = Path::new(PROGRAMS).join("rabbitmq-server");
        assert!(server.is_file(), "rabbitmq-server is missing: install the package rabbitmq-server");
        let home = Folder::new();
        let file = |name: &str| home.file(name).display().to_string();
        let [port, tls_port, names, cluster] = [(); 4].map(|()| free_port());
        let write = |name: &str, text: &str| fs::write(home.file(name), text).expect("a file");
        write(".erlang.cookie", COOKIE);
        fs::set_permissions(home.file(".erlang.cookie"), fs::Permissions::from_mode(0o400)).expect("a mode");
        write("rabbitmq.conf", &if settings.tls { with_tls(&home, tls_port) } else { String::new() });
        write("advanced.config", &format!("[{{rabbit, [{}]}}].\n", settings.rabbit));
        write("plugins", "[].\n");
        let environment = vec![
            ("SERVER", server.display().to_string()),
            ("HOME", home.path().display().to_string()),
            ("ERL_EPMD_PORT", names.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", format!("tasklock{port}@localhost")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", cluster.to_string()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
            ("RABBITMQ_MNESIA_BASE", file("data")),
            ("RABBITMQ_LOG_BASE", file("log")),
            ("RABBITMQ_CONF_ENV_FILE", file("none")),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins")),
        ];
        let broker = Broker { home, port, tls_port, tls: settings.tls, environment, guard: Mutex::default() };
        broker.restart();
        broker
    }

    /// Starts it again, on the same port, with the data it kept.
    ///
    /// # Panics
    ///
    /// If it runs, or does not start.
    pub fn restart(&self) {
        let mut guard = self.guard();
        assert!(guard.is_none(), "it runs");
        let _ = fs::remove_file(self.home.file("pid"));
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).stdin(Stdio::piped()).envs(self.environment.iter().cloned());
        *guard = Some(command.spawn().expect("sh"));
        drop(guard);
        let answers = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("rabbitmq-server answers", || {
            if let Some(status) = self.guard().as_mut().and_then(|guard| guard.try_wait().expect("a status")) {
                panic!("rabbitmq-server ended: {status}\n{}", self.output());
            }
            answers(self.port) && (!self.tls || answers(self.tls_port))
        });
    }

    /// Ends it in good order, and keeps its data.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub async fn stop(&self) {
        self.control(&["stop", &self.home.file(&format!("data/{}.pid", self.node())).display().to_string()]).await;
        self.kill();
    }

    /// Ends it at once, and keeps its data.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn kill(&self) {
        let mut guard = self.guard().take().expect("it runs");
        let mut orders = guard.stdin.take().expect("its input");
        orders.write_all(b"keep\n").expect("an order");
        guard.wait().expect("a status");
    }

    /// Stops it where it stands: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// Its address by TLS, believing its own authority.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://localhost:{}?ca={}", self.tls_port, self.home.file("ca.pem").display())
    }

    /// Its address by TLS, believing whom the system does.
    #[must_use]
    pub fn tls_url_without_authority(&self) -> String {
        format!("amqps://localhost:{}", self.tls_port)
    }

    /// Gives it an order by `rabbitmqctl`; what that prints.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn control(&self, words: &[&str]) -> String {
        let mut command = tokio::process::Command::new(Path::new(PROGRAMS).join("rabbitmqctl"));
        command.arg("--quiet").args(words).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        let output = command.output().await.expect("rabbitmqctl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The names of the queues it has whose name contains this.
    pub async fn queues(&self, part: &str) -> Vec<String> {
        let all = self.control(&["list_queues", "name", "--no-table-headers"]).await;
        all.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// How many hold the lock whose name contains this, or wait for it. The driver is told of those only that hold.
    pub async fn consumers(&self, part: &str) -> usize {
        let all = self.control(&["list_consumers", "queue_name", "--no-table-headers"]).await;
        all.lines().filter(|line| line.contains(part)).count()
    }

    /// How much memory it has, in MiB.
    ///
    /// # Panics
    ///
    /// If it does not tell.
    pub async fn memory(&self) -> u64 {
        let told = self.control(&["eval", "erlang:memory(total)."]).await;
        told.trim().parse::<u64>().expect("a number") >> 20
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.home.file("pid")).expect("its process id").trim().to_owned()
    }

    fn node(&self) -> String {
        format!("tasklock{}@localhost", self.port)
    }

    fn output(&self) -> String {
        fs::read_to_string(self.home.file("output")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let group = self.pid().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process_group(group, signal).expect("a signal sent");
    }

    fn guard(&self) -> MutexGuard<'_, Option<Child>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard().take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// The lines that have it listen by TLS.
fn with_tls(home: &Folder, port: u16) -> String {
    make_certificates(home);
    let file = |name: &str| home.file(name).display().to_string();
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
        file("ca.pem"),
        file("server.pem"),
        file("server.key")
    )
}
