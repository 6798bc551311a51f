package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/run"
)

// real are services in images that behave as the official ones, each with a client's
// session that ends with 42.
var real = []struct{ name, tag, session string }{
	{"postgres", "15", `psql "$MOAT_POSTGRES_URL" -qAtc "create table t (x int); insert into t values (42); select x from t"`},
	{"redis", "7", `export REDISCLI_AUTH="$MOAT_REDIS_PASSWORD"
		redis-cli -u "$MOAT_REDIS_URL" set x 42 >/dev/null; redis-cli -h "$MOAT_REDIS_HOST" -p "$MOAT_REDIS_PORT" get x`},
	{"mariadb", "10.11", `export MYSQL_PWD="$MOAT_MARIADB_PASSWORD"
		mariadb -h "$MOAT_MARIADB_HOST" -P "$MOAT_MARIADB_PORT" -u "$MOAT_MARIADB_USER" "$MOAT_MARIADB_DB" -Ne "create table t (x int); insert into t values (42); select x from t"`},
}

// newServiceUser is a user on whose engine the services have their official names.
func newServiceUser(t *testing.T) *user { t.Helper(); return newServiceUserOn(t, engine) }

func newServiceUserOn(t *testing.T, variable string) *user {
	u := newUserOn(t, variable)
	if !strings.Contains(u.docker("images", "--format", "{{.Repository}}"), "moat/test-postgres") {
		dockertest.Need(t, "docker", "the images of real services are not there: `make setup` makes them, on Debian 12")
	}
	for _, service := range real {
		u.docker("tag", "moat/test-"+service.name+":"+service.tag, service.name+":"+service.tag)
	}
	u.docker("tag", image, "redis:broken")
	t.Cleanup(func() {
		if left := u.owned(); left != "" {
			t.Errorf("left on the engine: %s", left)
			u.removeOwned()
		}
	})
	return u
}

// owned lists the containers and networks of the user's runs.
func (u *user) owned() string {
	u.Helper()
	owner := u.ownerFilter()
	if owner == "" {
		return ""
	}
	return strings.TrimSpace(u.docker("ps", "-a", "--filter", owner, "--format", "{{.Names}} {{.Status}}") + "\n" +
		u.docker("network", "ls", "--filter", owner, "--format", "{{.Name}}"))
}

// ownerFilter selects what is the user's on the engine, or is "" where there was no run.
func (u *user) ownerFilter() string {
	u.Helper()
	name, err := os.ReadFile(filepath.Join(u.home, "moat", "owner"))
	if os.IsNotExist(err) {
		return ""
	}
	if err != nil {
		u.Fatal(err)
	}
	return "label=" + run.LabelOwner + "=" + strings.TrimSpace(string(name))
}

func (u *user) removeOwned() {
	u.Helper()
	remove := func(filter string) {
		for _, id := range strings.Fields(u.docker("ps", "-aq", "--filter", filter)) {
			u.docker("rm", "-fv", id)
		}
	}
	remove(u.ownerFilter())
	for _, id := range strings.Fields(u.docker("network", "ls", "-q", "--no-trunc", "--filter", u.ownerFilter())) {
		remove("label=" + core.LabelServes + "=" + id) // the helper of sandboxed containers
		u.docker("network", "rm", id)
	}
}

func TestServices(t *testing.T) {
	for _, service := range real {
		for _, sandbox := range sandboxes {
			t.Run(service.name+sandbox, func(t *testing.T) {
				u := newServiceUser(t)
				spec := service.name + ":" + service.tag
				found := u.run("--rm", sandbox, "--service", spec, "moat/test-"+service.name, "sh", "-ec", service.session)
				if found.code != 0 || strings.TrimSpace(found.stdout) != "42" {
					t.Errorf("exit status %d, %q, %s", found.code, found.stdout, found.stderr)
				}
			})
		}
	}
}

// redis makes an image of that name that runs a script, and returns it as a service.
func (u *user) redis(what, script string) (service string) {
	u.Helper()
	service = fmt.Sprintf("redis:%s-%d", what, os.Getpid())
	id := u.docker("create", image)
	u.docker("commit", "--change", fmt.Sprintf("ENTRYPOINT [%q, %q, %q]", "sh", "-c", script), id, service)
	u.docker("rm", id)
	u.Cleanup(func() { u.docker("rmi", service) })
	return service
}

func TestServicesThatFail(t *testing.T) {
	u := newServiceUser(t)
	slow, dies := u.redis("slow", "echo the disk is slow; exec sleep 1000"), u.redis("dies", "echo the disk is full; exit 3")
	for _, test := range []struct {
		args  []string
		texts []string
	}{
		{[]string{"--service", "redis:broken"}, []string{"redis", "executable file not found"}},
		{[]string{"--service", dies}, []string{"redis", "exited with status 3", "the disk is full"}},
		{[]string{"--service", slow, "--service-timeout", "3s"}, []string{"redis", "timed out", "the disk is slow"}},
		{[]string{"--service", "redis:no-such-version"}, []string{"redis:no-such-version"}},
		{[]string{"--service", "oracle"}, []string{"oracle", "mariadb, mysql, postgres, redis"}},
		{[]string{"--service", "redis:7", "--service", "redis:6"}, []string{"twice"}},
		{[]string{"--service", "redis:7", "-d"}, []string{"-d", "cannot be combined"}},
		{[]string{"--service", "redis:7", "--network", "none"}, []string{"--network none"}},
		{[]string{"--service", "redis:7", "--network", "no-such-network"}, []string{"no-such-network", "not found"}},
	} {
		found := u.run(append(append([]string{"--rm", "--no-sandbox"}, test.args...), image, "true")...)
		want(u, fmt.Sprintf("the exit status with %q", test.args), found.code, 125)
		wantText(u, found.stderr, test.texts...)
		want(u, fmt.Sprintf("what is left of %q", test.args), u.owned(), "")
	}
	found := u.run("--no-sandbox", "--service", "redis:7", image, "sh", "-c", "echo $MOAT_REDIS_HOST; exit 7")
	want(u, "the workload's exit status", found.code, 7)
	want(u, "what it wrote", found.stdout, "redis\n")
	wantText(u, u.must("clean"), "its run is over")
}

// TestServicesOnASharedNetwork has two runs with the same service on a network of the
// user's, at once.
func TestServicesOnASharedNetwork(t *testing.T) {
	u := newServiceUser(t)
	name := unique(t)
	u.must("network", "create", name)
	defer u.must("network", "rm", "-f", name)
	session := func(value, then string) []string {
		return u.labelled("--rm", "--no-sandbox", "--network", name, "--service", "redis:7", "moat/test-redis", "sh", "-ec",
			`redis() { redis-cli --no-auth-warning -u "$MOAT_REDIS_URL" "$@"; }; test "$(redis set x `+value+`)" = OK; `+then)
	}
	first := u.reading(session("1", `trap 'redis get x; exit' TERM; echo ready; while :; do sleep 0.1; done`)...)
	first.await(u, "ready")
	second := u.moat(session("2", "redis get x; echo $MOAT_REDIS_HOST")...)
	value, host, _ := strings.Cut(second.stdout, "\n")
	if second.code != 0 || value != "2" || !strings.HasPrefix(host, "moat-redis-") {
		t.Errorf("the second run: exit status %d, %q, %s", second.code, second.stdout, second.stderr)
	}
	u.signal(first.Cmd, syscall.SIGTERM)
	first.await(u, "1")
	want(u, "the first run's exit status", u.finish(first.Cmd).code, 0)
}

// TestServicesInterrupted ends runs at each stage of their services' start, by a signal
// and by what cannot be caught: on each engine, in the way that is the likelier there.
func TestServicesInterrupted(t *testing.T) {
	for variable, sandbox := range map[string]string{engine: "--no-sandbox", newest: "--no-sandbox=false"} {
		for stage := range 4 { // the network, the service, the workload, both
			for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				t.Run(fmt.Sprintf("%s %s %d", variable, how, stage), func(t *testing.T) { interruptServices(t, variable, sandbox, stage, how) })
			}
		}
	}
}

func interruptServices(t *testing.T, variable, sandbox string, stage int, how syscall.Signal) {
	u := newServiceUserOn(t, variable)
	run := u.start(u.command(u.labelled("--rm", sandbox, "--service", "redis:7", image, "sh", "-c", loop)...))
	u.eventually("the stage is reached", func() bool {
		running := strings.Count(u.owned(), " Up ")
		return u.owned() != "" && (stage == 0 || stage < 3 && strings.Count(u.owned(), "\n") >= stage || running == 2)
	})
	u.signal(run, how)
	if how == syscall.SIGKILL {
		_ = run.Wait()
		u.eventually("all is cleaned, also what the engine made later", func() bool { u.must("clean"); return u.owned() == "" })
		return
	}
	found := u.finish(run)
	if found.code != 143 && found.code != 0 { // the workload's own, once it runs
		t.Errorf("the exit status is %d", found.code)
	}
	t.Logf("it said: %s", found.stderr) // where something is left
}

func TestNetworks(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	defer u.must("network", "rm", "-f", name)
	id := strings.TrimSpace(u.must("network", "create", "--internal", "-l", "team=blue", name))
	listed := 0
	for _, row := range u.rows("network", "ls", "--json") {
		if row["name"] != name {
			continue
		}
		listed++
		if row["id"] != id || row["internal"] != true || row["subnet"] == "" {
			t.Errorf("listed as %v", row)
		}
	}
	want(u, "how often the network is listed", listed, 1)
	wantText(u, u.moat("network", "create", name).stderr, "already exists")
	server := u.must(u.labelled("-d", "--network", name, "--network-alias", "server", "--hostname", "it", image, "sh", "-c",
		"while true; do hostname | nc -l -p 8080; done")...)
	found := u.run("--rm", "--network", name, image, "sh", "-c",
		`nc $(nslookup server | sed -n 's/^Address: *\([0-9.]*\)$/\1/p') 8080 </dev/null`)
	want(u, "what the server answers", found.stdout, "it\n")
	inUse := u.moat("network", "rm", name)
	want(u, "the exit status of a removal in use", inUse.code, 1)
	wantText(u, inUse.stderr, "in use", name)
	u.must("rm", "-f", strings.TrimSpace(server))
	want(u, "what is removed", u.must("network", "rm", id[:12]), name+"\n")
	wantText(u, u.moat("network", "rm", name).stderr, "not found", "network ls")
	u.must("network", "create", name)
}
