package step

import (
	"maps"
	"strings"
	"testing"
)

const (
	haproxyStat = "# pxname,svname,req_tot,bin,dreq,\npolicies,FRONTEND,5,513,2,\nserver,s,,308,,\nserver,BACKEND,,308,0,\n\n"
	haproxyACL  = "# id (file) description\n0 () acl 'method' file '/run/haproxy.cfg' line 12. curr_ver=0 next_ver=0 entry_cnt=1\n" +
		"1 () acl 'path_beg' file '/run/haproxy.cfg' line 12. curr_ver=0 next_ver=0 entry_cnt=1\n" +
		"3 () acl 'path_beg' file '/run/haproxy.cfg' line 13. curr_ver=0 next_ver=0 entry_cnt=1\n\n"
	nginxStatus = "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nActive connections: 1 \nserver accepts handled requests\n 7 7 31 \nReading: 0 Writing: 1 Waiting: 0 \n"
)

func TestProxyCounters(t *testing.T) {
	got, err := countHAProxy(haproxyStat, haproxyACL)
	if want := (counters{"packets": 5, "bytes": 513, "dropped": 2, "accepted": 3, "rules": 2}); err != nil || !maps.Equal(got, want) {
		t.Errorf("HAProxy: %v (%v), want %v", got, err, want)
	}
	got, err = countNginx(nginxStatus)
	if want := (counters{"packets": 31, "bytes": 0}); err != nil || !maps.Equal(got, want) {
		t.Errorf("nginx: %v (%v), want %v", got, err, want)
	}
}

// TestProxyCountersRefuse: what is not a report is no number.
func TestProxyCountersRefuse(t *testing.T) {
	for _, stat := range []string{
		"", "# pxname,svname\n", strings.Replace(haproxyStat, ",5,", ",nan,", 1), strings.Replace(haproxyStat, ",5,", ",1,", 1),
		strings.Replace(haproxyStat, "FRONTEND", "LISTENER", 1), strings.Replace(haproxyStat, "5,513,2,", "5", 1),
	} {
		if got, err := countHAProxy(stat, haproxyACL); err == nil {
			t.Errorf("%q: %v", stat, got)
		}
	}
	for _, text := range []string{"", strings.Replace(nginxStatus, "200 OK", "404 Not Found", 1), strings.Replace(nginxStatus, "31", "x", 1)} {
		if got, err := countNginx(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
