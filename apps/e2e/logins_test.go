package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker/dockertest"
)

// Whoever reads and does not read the images of the tests' registries. The passwords are
// found wherever they are not to be.
const (
	readerName, readerPassword     = "tester", "s3cr3t-of-tester"
	outsiderName, outsiderPassword = "outsider", "s3cr3t-of-outsider"
	wrongPassword                  = "s3cr3t-that-is-wrong"
	identityToken                  = "s3cr3t-identity-token"

	// Both passwords by bcrypt, of cost 4.
	htpasswd = readerName + ":$2a$04$Wgc2JHCG7rTkcteY3BVAE.Z5F0YCB13cHCS3VWN06hbV9B0zgWmSq\n" + outsiderName + ":$2a$04$tCxH5yQGOtVjDrSjUPXqAuZug.Nj6Ueroxmj0ZAmGakUlO7J6ewxO\n"
)

// serveRegistry starts a registry beside the user's engine, and returns its address there.
func (u *user) serveRegistry(env map[string]string, files map[string]string) string {
	u.Helper()
	const image = "moat/test-registry"
	if u.imageID(image) == "" {
		dockertest.Need(u.T, "docker", image+" is not there: `make setup` makes it")
	}
	args := []string{"create", "--label", u.label, "-p", "127.0.0.1::5000"}
	for name, value := range env {
		args = append(args, "-e", name+"="+value)
	}
	id := u.docker(append(args, image)...)
	u.Cleanup(func() { u.docker("rm", "-fv", id) })
	for name, content := range files {
		path := filepath.Join(u.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			u.Fatal(err)
		}
		u.docker("cp", path, id+":"+name)
	}
	u.docker("start", id)
	u.awaitLog(id, "listening on")
	return u.docker("port", id, "5000/tcp")
}

// awaitLog waits until a container has written a text to stderr.
func (u *user) awaitLog(id, text string) {
	u.Helper()
	logs := exec.CommandContext(u.Context(), "docker", "-H", u.past, "logs", "-f", id)
	said, err := logs.StderrPipe()
	if err != nil {
		u.Fatal(err)
	}
	if err := logs.Start(); err != nil {
		u.Fatal(err)
	}
	defer func() { _ = logs.Process.Kill(); _ = logs.Wait() }()
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	u.Fatalf("%s has not written %q: %s", id, text, u.docker("logs", id))
}

// private is a registry that wants a login, with an image, on the user's engine.
type private struct {
	host, image string
	tokens      *tokenServer // nil: it has a file of passwords
}

// secrets are what of the logins nobody may be shown.
func (p private) secrets(config string) []string {
	forms := []string{readerPassword, outsiderPassword, wrongPassword, identityToken}
	for _, match := range regexp.MustCompile(`"(?:auth|identitytoken|registrytoken)": ?"([^"]+)"`).FindAllStringSubmatch(config, -1) {
		forms = append(forms, match[1])
	}
	return forms
}

// servePrivate starts such a registry: with the passwords itself, or with a token server.
func (u *user) servePrivate(tokens *tokenServer) private {
	u.Helper()
	env := map[string]string{"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "tests", "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd"}
	files := map[string]string{"/htpasswd": htpasswd}
	if tokens != nil {
		tokens.users = map[string]string{readerName: readerPassword, outsiderName: outsiderPassword}
		tokens.identity, tokens.reader = identityToken, readerName
		tokens.start(u.T, u.namespace())
		env = map[string]string{
			"REGISTRY_AUTH": "token", "REGISTRY_AUTH_TOKEN_REALM": tokens.realm, "REGISTRY_AUTH_TOKEN_SERVICE": tokenService,
			"REGISTRY_AUTH_TOKEN_ISSUER": tokenIssuer, "REGISTRY_AUTH_TOKEN_JWKS": "/jwks",
		}
		files = map[string]string{"/jwks": tokens.keys()}
	}
	p := private{host: u.serveRegistry(env, files), tokens: tokens}
	p.image = u.push(p.host, readerName+":"+readerPassword, "echo private >/kept")
	return p
}

// namespace is that of the network of the user's engine.
func (u *user) namespace() string {
	if u.past == os.Getenv(newest) {
		return os.Getenv("MOAT_TEST_NETNS_CURRENT")
	}
	return os.Getenv("MOAT_TEST_NETNS")
}

// config is the Docker client's configuration with a login.
func (p private) config(login string) string {
	if login == "" {
		return "{}"
	}
	return fmt.Sprintf(`{"auths": {%q: {%s}}}`, p.host, login)
}

func basicLogin(name, password string) string {
	return fmt.Sprintf(`"auth": %q`, base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
}

// TestPrivateImages pulls, runs and builds from registries of both kinds, with logins of
// all kinds.
func TestPrivateImages(t *testing.T) {
	const again, missing, rejected, expired, denied = "Log in again with `docker login ", "refuses the image without a login", "rejects the login", "has expired", "gives no access to the image"
	for variable, tokens := range map[string]*tokenServer{engine: {}, newest: {strict: true}} {
		for kind, tokens := range map[string]*tokenServer{"passwords": nil, "tokens": tokens} {
			t.Run(variable+" "+kind, func(t *testing.T) {
				u := newUserOn(t, variable)
				p := u.servePrivate(tokens)
				absent := p.host + "/moat/absent:latest"
				type attempt struct {
					name, login, image string
					texts              []string // of the refusal; nil: there is none
				}
				attempts := []attempt{
					{"none", "", p.image, []string{missing, "og in with `docker login " + p.host}},
					{"right", basicLogin(readerName, readerPassword), p.image, nil},
					{"wrong", basicLogin(readerName, wrongPassword), p.image, []string{rejected, again + p.host}},
					{"no such image", basicLogin(readerName, readerPassword), absent, []string{"not found", "Check the image's name and tag"}},
				}
				if tokens != nil {
					const pull = "repository:moat/pushed:pull"
					past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
					attempts = append(attempts,
						attempt{"no access", basicLogin(outsiderName, outsiderPassword), p.image, []string{denied, "ask the image's owner for access"}},
						attempt{"identity", fmt.Sprintf(`"identitytoken": %q`, identityToken), p.image, nil},
						attempt{"wrong identity", fmt.Sprintf(`"identitytoken": %q`, wrongPassword), p.image, []string{rejected, again + p.host}},
						attempt{"expired identity", fmt.Sprintf(`"identitytoken": %q`, tokens.sign(past)), p.image, []string{expired, again + p.host}},
						attempt{"bearer", fmt.Sprintf(`"registrytoken": %q`, tokens.sign(future, pull)), p.image, nil},
						attempt{"expired bearer", fmt.Sprintf(`"registrytoken": %q`, tokens.sign(past, pull)), p.image, []string{expired, again + p.host}},
					)
				}
				for _, a := range attempts {
					u.tryLogin(p, a.name, p.config(a.login), a.image, a.texts)
				}
			})
		}
	}
}

// tryLogin pulls, runs and builds by each builder. Nothing of the login is in any output.
func (u *user) tryLogin(p private, name, config, image string, refusal []string) {
	u.Helper()
	u.env = []string{"DOCKER_CONFIG=" + u.folder(map[string]string{"config.json": config})}
	settings := u.env
	folder, tag := u.folder(map[string]string{"Dockerfile": "FROM " + image + "\nRUN cat /kept\n"}), u.tag()
	build := []string{"--debug", "build", "--no-sandbox", "--no-cache", "-t", tag, folder}
	attempts := []struct {
		what   string
		args   []string
		env    string
		failed int
		prints string
	}{
		{"pull", []string{"--debug", "pull", image}, "", 1, image},
		{"build", build, "", 1, tag},
		{"classic build", build, "MOAT_DISABLE_BUILDKIT=1", 1, tag},
		{"run", append([]string{"--debug"}, u.labelled("--rm", "--no-sandbox", image, "cat", "/kept")...), "", 125, "private"},
	}
	if p.tokens != nil {
		attempts = attempts[:3] // a run pulls as a pull does
	}
	for _, test := range attempts {
		u.env = slices.Concat(settings, []string{test.env})
		found := u.moat(test.args...)
		what := name + ": " + test.what + ": "
		if refusal == nil {
			want(u, what+"the exit status", found.code, 0)
			wantText(u, found.stdout, test.prints)
		} else {
			want(u, what+"the exit status", found.code, test.failed)
			wantText(u, found.stderr, append(refusal, image)...)
		}
		shown := found.stdout + found.stderr
		if u.isThere(tag) {
			shown += u.docker("inspect", tag) + u.docker("history", "--no-trunc", tag)
			u.docker("rmi", tag)
		}
		for _, secret := range p.secrets(config) {
			if strings.Contains(shown, secret) {
				u.Errorf("%s%q is in %s", what, secret, shown)
			}
		}
		if u.isThere(image) {
			u.docker("rmi", image)
		}
	}
}

// TestLoginsStayOutside has containers and images of a private image looked through.
func TestLoginsStayOutside(t *testing.T) {
	u := newUser(t)
	p := u.servePrivate(&tokenServer{})
	config := p.config(basicLogin(readerName, readerPassword))
	u.env = []string{"DOCKER_CONFIG=" + u.folder(map[string]string{"config.json": config})}
	defer u.docker("rmi", p.image)
	shown := u.must(u.labelled("--no-sandbox", p.image, "sh", "-c", "env; cat /proc/mounts /proc/*/environ /proc/*/cmdline")...)
	for _, id := range strings.Fields(u.docker("ps", "-aq", "--filter", "label="+u.label, "--filter", "ancestor="+p.image)) {
		shown += u.docker("inspect", id) + u.must("inspect", id)
		u.must("rm", id)
	}
	shown += u.docker("inspect", p.image) + u.docker("info")
	for _, secret := range append(p.secrets(config), readerName) {
		if strings.Contains(shown, secret) {
			u.Errorf("%q is in %s", secret, shown)
		}
	}
}

// TestCredentialHelper has a program for the logins, as people have on desktops.
func TestCredentialHelper(t *testing.T) {
	const config, script = `{"credsStore": "e2e"}`, "#!/bin/sh\nread server\n"
	u := newUser(t)
	p := u.servePrivate(nil)
	settings := "DOCKER_CONFIG=" + u.folder(map[string]string{"config.json": config})
	tells := fmt.Sprintf(`echo '{"Username": %q, "Secret": %q}'`, readerName, readerPassword)
	for _, test := range []struct {
		name, script string
		code         int
		texts        []string
	}{
		{"right", script + "[ $server = " + p.host + " ] && " + tells, 0, nil},
		{"no login", script + "echo 'credentials not found in native keychain'; exit 1", 1, []string{"refuses the image without a login"}},
		{"failing", script + tells + "; " + tells + " >&2; exit 1", 1, []string{"docker-credential-e2e failed", "to see why"}},
		{"missing", "", 1, []string{"docker-credential-e2e", "cannot be run", "Install it"}},
	} {
		folder := u.TempDir()
		if test.script != "" {
			helper := filepath.Join(folder, "docker-credential-e2e")
			u.write(helper, test.script)
			if err := os.Chmod(helper, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		context := u.folder(map[string]string{"Dockerfile": "FROM " + p.image + "\nRUN true\n"})
		tag := u.tag()
		for _, args := range [][]string{{"pull", p.image}, {"build", "--no-sandbox", "-t", tag, context}} {
			for _, builder := range []string{"", "MOAT_DISABLE_BUILDKIT=1"} {
				u.env = []string{settings, "PATH=" + folder + ":" + os.Getenv("PATH"), builder}
				found := u.moat(args...)
				want(u, fmt.Sprintf("%s: the exit status of %q %s", test.name, args, builder), found.code, test.code)
				wantText(u, found.stderr, test.texts...)
				if strings.Contains(found.stdout+found.stderr, readerPassword) {
					u.Errorf("%s: the password is in %s", test.name, found.stderr)
				}
				for _, image := range []string{tag, p.image} {
					if u.isThere(image) {
						u.docker("rmi", image)
					}
				}
			}
		}
	}
}

// TestBuildKitOfItsOwn has a builder beside the engine ask for the login.
func TestBuildKitOfItsOwn(t *testing.T) {
	const image = "moat/test-buildkit"
	u := newUserOn(t, newest)
	if u.imageID(image) == "" {
		dockertest.Need(t, "docker-current", image+" is not there: `make setup` makes it")
	}
	p := u.servePrivate(&tokenServer{strict: true})
	folder := t.TempDir()
	id := u.docker("run", "-d", "--label", u.label, "--privileged", "--network", "host", "-v", folder+":/run/buildkit", image,
		"--addr", "unix:///run/buildkit/buildkitd.sock")
	defer u.docker("rm", "-fv", id)
	u.awaitLog(id, "running server on")
	context := u.folder(map[string]string{"Dockerfile": "FROM " + p.image + "\nRUN cat /kept\n"})
	for _, test := range []struct {
		login string
		code  int
		text  string
	}{
		{"", 1, "refuses the image without a login"},
		{basicLogin(readerName, wrongPassword), 1, "rejects the login"},
		{basicLogin(outsiderName, outsiderPassword), 1, "gives no access to the image"},
		{basicLogin(readerName, readerPassword), 0, "private"},
		{fmt.Sprintf(`"registrytoken": %q`, p.tokens.sign(time.Now().Add(time.Hour), "repository:moat/pushed:pull")), 0, "private"},
	} {
		config := p.config(test.login)
		u.env = []string{"DOCKER_CONFIG=" + u.folder(map[string]string{"config.json": config}), "BUILDKIT_HOST=unix://" + folder + "/buildkitd.sock"}
		found := u.moat("--debug", "build", "--no-sandbox", "--no-cache", "-t", u.tag(), context)
		want(u, "the exit status with "+config, found.code, test.code)
		wantText(u, found.stderr, test.text)
		shown := found.stdout + found.stderr + u.docker("logs", id)
		for _, secret := range p.secrets(config) {
			if strings.Contains(shown, secret) {
				u.Errorf("%q is in %s", secret, shown)
			}
		}
	}
}

// TestProxiesStayOutside has proxies, which may have passwords, in the Docker client's
// configuration and in the environment: neither workloads nor builds get them.
func TestProxiesStayOutside(t *testing.T) {
	const secret = "s3cr3t-proxy"
	proxies := fmt.Sprintf(`{"proxies": {"default": {"httpProxy": %[1]q, "httpsProxy": %[1]q, "ftpProxy": %[1]q, "allProxy": %[1]q, "noProxy": %[1]q}}}`, "http://user:"+secret+"@127.0.0.1:1")
	for _, variable := range []string{engine, newest} {
		t.Run(variable, func(t *testing.T) {
			u := newUserOn(t, variable)
			u.env = []string{"DOCKER_CONFIG=" + u.folder(map[string]string{"config.json": proxies})}
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"} {
				u.env = append(u.env, name+"=http://user:"+secret+"@127.0.0.1:1", strings.ToLower(name)+"=http://user:"+secret+"@127.0.0.1:1")
			}
			settings := u.env
			shown := u.must(u.labelled("--rm", "--no-sandbox", image, "env")...)
			for _, builder := range []string{"", "MOAT_DISABLE_BUILDKIT=1"} {
				u.env = slices.Concat(settings, []string{builder})
				tag, folder := u.tag(), u.folder(map[string]string{"Dockerfile": from + "ARG http_proxy\nRUN env; echo \"<$http_proxy>\"\n"})
				built := u.moat("--debug", "build", "--no-sandbox", "--no-cache", "-t", tag, folder)
				want(u, "the exit status", built.code, 0)
				wantText(u, built.stderr, "<>")
				shown += built.stderr + u.docker("inspect", tag) + u.docker("history", "--no-trunc", tag)
			}
			if strings.Contains(shown, secret) {
				u.Errorf("a proxy is in %s", shown)
			}
		})
	}
}
