package builder

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moby/buildkit/session/auth"
)

// serving returns a build with these logins.
func serving(login func(string) (registry.AuthConfig, error)) *run {
	return &run{Request: build.Request{Engine: build.Engine{Login: login}}}
}

// What BuildKit asks for and gets.
func TestLoginServer(t *testing.T) {
	known := map[string]registry.AuthConfig{
		"docker.io":        {Username: "hubber", Password: "of the hub"},
		"identity.example": {Username: "user", Password: "password", IdentityToken: "identity"},
		"bearer.example":   {RegistryToken: "bearer"},
	}
	server, err := newLoginServer(serving(func(name string) (registry.AuthConfig, error) { return known[name], nil }))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][2]string{
		"registry-1.docker.io": {"hubber", "of the hub"},
		"identity.example":     {"", "identity"},
		"unknown.example":      {"", ""},
		// Not the same as none, for which BuildKit may have a token already.
		"bearer.example": {tokenUser, ""},
	} {
		got, err := server.Credentials(t.Context(), &auth.CredentialsRequest{Host: host})
		if err != nil || got.Username != want[0] || got.Secret != want[1] {
			t.Errorf("%s: %v, %v", host, got, err)
		}
		authority, err := server.GetTokenAuthority(t.Context(), &auth.GetTokenAuthorityRequest{Host: host})
		if (host == "bearer.example") != (err == nil) {
			t.Errorf("%s: an authority: %v, %v", host, authority, err)
		}
	}
	authority, err := server.GetTokenAuthority(t.Context(), &auth.GetTokenAuthorityRequest{Host: "bearer.example"})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := server.VerifyTokenAuthority(t.Context(), &auth.VerifyTokenAuthorityRequest{Host: "bearer.example", Payload: []byte("payload")})
	if err != nil || !ed25519.Verify(authority.PublicKey, []byte("payload"), proof.Signed[:ed25519.SignatureSize]) {
		t.Errorf("the proof: %v, %v", proof, err)
	}
	if token, err := server.FetchToken(t.Context(), &auth.FetchTokenRequest{Host: "bearer.example"}); err != nil || token.Token != "bearer" {
		t.Errorf("the token: %v, %v", token, err)
	}
}

// BuildKit keeps and logs what it is told.
func TestLoginServerKeepsFailuresToItself(t *testing.T) {
	const secret = "s3cret"
	server, err := newLoginServer(serving(func(string) (registry.AuthConfig, error) { return registry.AuthConfig{}, errors.New(secret) }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Credentials(t.Context(), &auth.CredentialsRequest{Host: "example.org"}); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("BuildKit is told %v", err)
	}
}
