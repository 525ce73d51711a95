package bundle

import (
	"fmt"
	"strings"
)

// HTTPServer is the start of an HTTP server at an address and port, and the file that it
// needs, by name. Every request is answered with status 200 and a body of 64 bytes, over
// HTTP/1.1 and, by prior knowledge, HTTP/2. It is one process.
func HTTPServer(handle, addr string, port int) (Start, map[string]File) {
	listen := "0.0.0.0"
	if strings.Contains(addr, ":") {
		listen = "[::]"
	}
	name := fmt.Sprintf("http-%d", port)
	text := fmt.Appendf(nil, httpServerText, name, listen, port, strings.Repeat("0123456789abcdef", 4))
	file := name + ".conf"
	return Start{Handle: handle, Argv: []string{"nginx", "-e", "stderr", "-c", "/run/" + file}, Port: port, HTTP: true, Files: []string{file}},
		map[string]File{file: NewFile(text)}
}

// httpServerText is nginx's configuration. The paths of temporary files must be there, and
// nothing is written to them.
const httpServerText = `daemon off;
master_process off;
user root;
pid /run/%s.pid;
error_log stderr error;
worker_processes 1;
events { worker_connections 512; }
http {
	access_log off;
	keepalive_requests 100000000;
	keepalive_timeout 1h;
	client_body_temp_path /tmp;
	proxy_temp_path /tmp;
	fastcgi_temp_path /tmp;
	uwsgi_temp_path /tmp;
	scgi_temp_path /tmp;
	server {
		listen %s:%d backlog=512;
		http2 on;
		location / { return 200 "%s"; }
	}
}
`
