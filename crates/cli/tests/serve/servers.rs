//! Debian's haproxy and nginx, unmodified, in front of a daemon. Gone when they are dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::home::{Home, PATIENCE};

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// haproxy with this configuration, in which `PORT` stands for its own.
    pub(crate) fn haproxy(home: &Home, config: &str) -> Self {
        let times = "defaults\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n";
        Self::start(home, "haproxy", &format!("{times}{config}"), |command, file| {
            command.args(["-db", "-f"]).arg(file);
        })
    }

    /// nginx with this `http` configuration.
    pub(crate) fn nginx(home: &Home, config: &str) -> Self {
        let dir = home.path().display();
        let config = format!(
            "daemon off;\nuser root;\npid {dir}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n access_log off;\n\
             client_body_temp_path {dir}/nginx-body;\n proxy_temp_path {dir}/nginx-proxy;\n fastcgi_temp_path {dir}/nginx-f;\n\
             uwsgi_temp_path {dir}/nginx-u;\n scgi_temp_path {dir}/nginx-s;\n{config}\n}}\n"
        );
        Self::start(home, "nginx", &config, |command, file| {
            command.arg("-c").arg(file);
        })
    }

    fn start(home: &Home, program: &str, config: &str, arguments: impl Fn(&mut Command, &Path)) -> Self {
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let file = home.path().join(format!("{program}.conf"));
            std::fs::write(&file, config.replace("PORT", &port.to_string())).unwrap();
            let mut command = home.command(program);
            arguments(&mut command, &file);
            let child = command.stdout(Stdio::null()).spawn();
            let child =
                child.unwrap_or_else(|error| panic!("{program}: {error}: run `sh tools/setup --test`"));
            let mut server = Self {
                child,
                address: ([127, 0, 0, 1], port).into(),
            };
            if server.is_up() {
                return server;
            }
        }
        panic!("{program} does not start");
    }

    /// Whether it listens; not where it has ended, since another program took its port.
    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
