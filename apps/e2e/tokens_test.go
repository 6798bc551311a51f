package e2e

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker/dockertest"
)

// tokenServer gives out the tokens of a registry that trusts it: for all that is asked for
// to one user, and for nothing to others.
type tokenServer struct {
	realm  string
	key    ed25519.PrivateKey
	strict bool // nobody gets a token without a login

	users    map[string]string // passwords by names
	identity string            // reader's token
	reader   string            // who may read the images
}

// The names by which a registry and its token server know each other.
const (
	tokenIssuer  = "moat-test"
	tokenService = "registry"
	tokenKey     = "key"
)

// start has the server listen on the loopback of an engine's network.
func (s *tokenServer) start(t *testing.T, namespace string) {
	t.Helper()
	listener, err := dockertest.ListenIn(namespace, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.key, err = ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listener)
	s.realm = "http://" + listener.Addr().String() + "/token"
}

// keys is the set of keys that the registry trusts.
func (s *tokenServer) keys() string {
	public := base64.RawURLEncoding.EncodeToString(s.key.Public().(ed25519.PublicKey))
	return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":%q,"x":%q}]}`, tokenKey, public)
}

// sign returns a token for actions on images, such as "repository:moat/image:pull".
func (s *tokenServer) sign(until time.Time, scopes ...string) string {
	access := []map[string]any{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		if len(parts) == 3 {
			access = append(access, map[string]any{"type": parts[0], "name": parts[1], "actions": strings.Split(parts[2], ",")})
		}
	}
	claims, _ := json.Marshal(map[string]any{
		"iss": tokenIssuer, "aud": tokenService, "sub": "test", "jti": fmt.Sprint(until.UnixNano()),
		"iat": until.Add(-time.Hour).Unix(), "nbf": until.Add(-time.Hour).Unix(), "exp": until.Unix(), "access": access,
	})
	signed := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"EdDSA","typ":"JWT","kid":%q}`, tokenKey)) +
		"." + base64.RawURLEncoding.EncodeToString(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, []byte(signed)))
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, password, given := r.BasicAuth()
	if r.PostFormValue("grant_type") == "password" {
		name, password, given = r.PostFormValue("username"), r.PostFormValue("password"), true
	}
	switch token := r.PostFormValue("refresh_token"); {
	case token != "" && token == s.identity:
		name = s.reader
	case token != "":
		refuse(w, "the refresh token is invalid")
		return
	case given && s.users[name] != password, !given && s.strict:
		refuse(w, "incorrect username or password")
		return
	}
	var scopes []string
	if name == s.reader {
		for _, scope := range append(r.URL.Query()["scope"], r.PostForm["scope"]...) {
			scopes = append(scopes, strings.Fields(scope)...)
		}
	}
	token := s.sign(time.Now().Add(time.Hour), scopes...)
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func refuse(w http.ResponseWriter, why string) {
	w.WriteHeader(http.StatusUnauthorized)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"details": why, "errors": []map[string]string{{"code": "UNAUTHORIZED", "message": why}},
	})
}
