package step

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/bundle"
)

// proxyLimit is how long a proxy may take to report.
const proxyLimit = 30 * time.Second

// readProxy reads what a proxy of the thread's namespace reports of itself.
func readProxy(ctx context.Context, p bundle.ProxyCounter) (counters, error) {
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port))
	switch p.Kind {
	case bundle.ProxyHAProxy:
		stat, err := question(ctx, at, "show stat\n")
		if err != nil {
			return nil, err
		}
		acl, err := question(ctx, at, "show acl\n")
		if err != nil {
			return nil, err
		}
		return countHAProxy(stat, acl)
	case bundle.ProxyNginx:
		text, err := question(ctx, at, "GET / HTTP/1.0\r\n\r\n")
		if err != nil {
			return nil, err
		}
		return countNginx(text)
	}
	return nil, fmt.Errorf("unknown kind of proxy %q", p.Kind)
}

// question sends one and reads the answer to its end.
func question(ctx context.Context, at, text string) (string, error) {
	conn, err := (&net.Dialer{Timeout: proxyLimit}).DialContext(ctx, "tcp", at)
	if err != nil {
		return "", fmt.Errorf("reach the proxy: %w", err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(proxyLimit))
	if err == nil {
		_, err = io.WriteString(conn, text)
	}
	if err != nil {
		return "", fmt.Errorf("question the proxy: %w", err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("read the proxy's answer: %w", err)
	}
	return string(answer), nil
}

// countHAProxy reads the row of the frontend, and counts the paths in HAProxy's lists (its
// management guide, 9.1 and 9.3: "show stat", "show acl").
func countHAProxy(stat, acl string) (counters, error) {
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(stat, "# "))).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("parse HAProxy's statistics: %w", err)
	}
	got := counters{"rules": uint64(len(haproxyPath.FindAllString(acl, -1)))}
	for _, row := range rows {
		if len(row) < 2 || row[1] != "FRONTEND" {
			continue
		}
		for i, name := range rows[0] {
			key := map[string]string{"req_tot": "packets", "bin": "bytes", "dreq": "dropped"}[name]
			if key == "" {
				continue
			}
			if got[key], err = strconv.ParseUint(row[i], 10, 64); err != nil {
				return nil, fmt.Errorf("parse %s of HAProxy's statistics: %w", name, err)
			}
		}
		if got["dropped"] > got["packets"] {
			return nil, fmt.Errorf("HAProxy denied %d of %d requests", got["dropped"], got["packets"])
		}
		got["accepted"] = got["packets"] - got["dropped"]
		return got, nil
	}
	return nil, errors.New("HAProxy's statistics have no frontend")
}

// haproxyPath is a line of "show acl" that is of one path.
var haproxyPath = regexp.MustCompile(`(?m)^\d+ \(\) acl '(?:path_beg|pathq)' .* entry_cnt=1$`)

// nginxRequests are the numbers of stub_status: connections accepted and handled, and
// requests.
var nginxRequests = regexp.MustCompile(`server accepts handled requests\s+\d+ \d+ (\d+)`)

func countNginx(text string) (counters, error) {
	m := nginxRequests.FindStringSubmatch(text)
	if m == nil || !strings.Contains(text, " "+strconv.Itoa(http.StatusOK)+" ") {
		return nil, fmt.Errorf("nginx's status is %.200q", text)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("parse nginx's status: %w", err)
	}
	return counters{"packets": n, "bytes": 0}, nil
}
