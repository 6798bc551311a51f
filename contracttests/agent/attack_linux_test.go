package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// attacker is a process that makes the operating system's calls.
type attacker struct {
	Process
	Attacker
	Network
}

// TestAttacks has one process hear the attacks of another by loopback.
func TestAttacks(t *testing.T) {
	free, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	heard := make(chan string, 8)
	for _, number := range []string{port, port} { // the second time it is taken
		err = operatingSystem{}.Hear(number, func(network, text string) { heard <- network + " " + text })
	}
	if err == nil {
		t.Error("a port can be listened on twice")
	}
	p := &process{args: []string{
		"send tcp 127.0.0.1:" + port + " one", "send udp 127.0.0.1:" + port + " two", "send icmp 127.0.0.1:0 three",
		"tunnel 127.0.0.1:" + port + " - host:1 refused", "tunnel 127.0.0.1:1 - host:1 nowhere",
		"send tcp 127.0.0.1:1 four", "send udp [ff02::1%nowhere]:1 five", "send pigeon 127.0.0.1:1 six", "try send udp nowhere seven",
		"change direction 192.0.2.1/32 eight", "try change address nowhere nine", "try tunnel 127.0.0.1:1 -",
	}}
	if status := Run(attacker{p, operatingSystem{}, operatingSystem{}}); status != 0 {
		t.Errorf("it exits with %d: %s", status, &p.stderr)
	}
	var all []string // in any order: each connection is heard by itself
	for range 3 {
		all = append(all, <-heard)
	}
	for _, want := range []string{"tcp one", "udp two", "tcp CONNECT host:1 HTTP/1.1\r\nHost: host:1\r\n\r\n"} {
		if !slices.Contains(all, want) {
			t.Errorf("it hears %q, want %q among it", all, want)
		}
	}
	lines := strings.Split(p.stdout.String(), "\n")
	for i, want := range []string{"succeeded one", "succeeded two", "", "failed refused ", "failed nowhere ", "failed four ", "impossible five ", "failed six ", "failed", "", "failed", "failed"} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("the outcome is %q, want %q", lines[i], want)
		}
	}
	if icmp := lines[2]; icmp != "succeeded three" && !strings.HasPrefix(icmp, "impossible three ") { // the kernel may not let this user
		t.Errorf("the echo %s", icmp)
	}
}

func TestHearing(t *testing.T) {
	p := &process{args: []string{"hear 7 8"}, ended: make(chan struct{})}
	ears := make(chan func(string, string), 2)
	ended := make(chan int)
	go func() { ended <- Run(attacker{p, deaf{ears: ears}, nil}) }()
	for _, port := range []string{"7", "8"} {
		(<-ears)("udp", port+" \n")
	}
	close(p.ended)
	<-ended
	said := p.stdout.String()
	for _, want := range []string{"ready\n", fmt.Sprintf("udp 7 %q\n", "7 \n"), fmt.Sprintf("udp 8 %q\n", "8 \n")} {
		if !strings.Contains(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
	}
}

// deaf hears only the test.
type deaf struct {
	Attacker
	ears chan func(network, text string)
}

func (d deaf) Hear(_ string, heard func(network, text string)) error {
	d.ears <- heard
	return nil
}

func TestTunnel(t *testing.T) {
	for _, test := range []struct{ credential, answer, asked, want string }{
		{"run:secret", "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello\n", "Proxy-Authorization: Basic cnVuOnNlY3JldA==\r\n\r\ntext", "<nil>"},
		{"-", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "CONNECT host:1 HTTP/1.1\r\nHost: host:1\r\n\r\n", "407 Proxy Authentication Required"},
		{"-", "HTTP/1.1 200 OK\r\n", "\r\n\r\n", "EOF"},
		{"-", "", "\r\n\r\n", "EOF"},
	} {
		var asked strings.Builder
		err := tunnelThrough(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(test.answer), &asked}, test.credential, "host:1", "text")
		if fmt.Sprint(err) != test.want || !strings.HasSuffix(asked.String(), test.asked) {
			t.Errorf("the answer %q: %v after %q", test.answer, err, asked.String())
		}
	}
}
