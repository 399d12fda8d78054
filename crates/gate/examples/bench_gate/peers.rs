//! The other proxies, each configured as its manual advises for speed: one worker, no log, connections kept both ways.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use suijuris_testkit::bench::{Running, await_port, free_port};

/// A proxy that runs: where it listens.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) running: Running,
}

fn start(port: u16, command: &mut Command) -> io::Result<Proxy> {
    let running = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    await_port(port)?;
    Ok(Proxy { port, running })
}

/// nginx in front of `upstream`.
pub(crate) fn nginx(folder: &Path, upstream: u16) -> io::Result<Proxy> {
    let port = free_port()?;
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
  upstream workload {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    keepalive_requests 1000000000;
    location / {{ proxy_pass http://workload; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
  }}
}}\n",
        dir = folder.display()
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config)?;
    start(
        port,
        Command::new("nginx").arg("-c").arg(path).arg("-p").arg(folder),
    )
}

/// HAProxy in front of `upstream`.
pub(crate) fn haproxy(folder: &Path, upstream: u16) -> io::Result<Proxy> {
    let port = free_port()?;
    let config = format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  default_backend workload
backend workload
  server only 127.0.0.1:{upstream}\n"
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, config)?;
    start(port, Command::new("haproxy").arg("-db").arg("-f").arg(path))
}

/// Envoy in front of `upstream`, asking the HTTP service at `authority` about every request.
pub(crate) fn envoy(folder: &Path, upstream: u16, authority: u16) -> io::Result<Proxy> {
    let port = free_port()?;
    let cluster = |name: &str, port: u16| {
        format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"
        )
    };
    let config = format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: workload }} }}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              http_service:
                server_uri: {{ uri: 'http://127.0.0.1:{authority}', cluster: authority, timeout: 5s }}
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:\n{}{}",
        cluster("workload", upstream),
        cluster("authority", authority)
    );
    let path = folder.join("envoy.yaml");
    std::fs::write(&path, config)?;
    let mut command = Command::new("envoy");
    command
        .args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "off",
            "-c",
        ])
        .arg(path);
    start(port, &mut command)
}
