package builder

import (
	"context"
	"crypto/ed25519"

	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"
)

// hubHost is what BuildKit calls [build.Hub].
const hubHost = "registry-1.docker.io"

// tokenUser is the user's name beside a token that the registry itself takes.
const tokenUser = "<token>"

// loginServer hands the logins of a build to BuildKit, each when it asks.
type loginServer struct {
	auth.UnimplementedAuthServer
	build *run
	key   ed25519.PrivateKey
}

func newLoginServer(b *run) (*loginServer, error) {
	_, key, err := ed25519.GenerateKey(nil)
	return &loginServer{build: b, key: key}, err
}

// Register implements [session.Attachable].
func (s *loginServer) Register(server *grpc.Server) { auth.RegisterAuthServer(server, s) }

// login returns the login at a host, whose failure BuildKit and its log are told nothing of.
func (s *loginServer) login(host string) (registry.AuthConfig, error) {
	if host == hubHost {
		host = build.Hub
	}
	if s.build.Engine.Login == nil {
		return registry.AuthConfig{}, nil
	}
	login, err := s.build.Engine.Login(host)
	if err != nil {
		return registry.AuthConfig{}, rpc.Error(codes.Internal, "the login cannot be found")
	}
	return login, nil
}

// Credentials returns a password or an identity token. A registry's token is for
// [loginServer.FetchToken], and not the same as no login, which BuildKit may remember.
func (s *loginServer) Credentials(_ context.Context, request *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	login, err := s.login(request.Host)
	if err != nil {
		return nil, err
	}
	switch {
	case login.IdentityToken != "":
		return &auth.CredentialsResponse{Secret: login.IdentityToken}, nil
	case login.RegistryToken != "":
		return &auth.CredentialsResponse{Username: tokenUser}, nil
	}
	return &auth.CredentialsResponse{Username: login.Username, Secret: login.Password}, nil
}

// GetTokenAuthority has BuildKit fetch its tokens from here. Without it BuildKit asks the
// registry's token server: that may be out of this process's reach.
func (s *loginServer) GetTokenAuthority(ctx context.Context, request *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	login, err := s.login(request.Host)
	if err != nil {
		return nil, err
	}
	if login.RegistryToken == "" {
		return s.UnimplementedAuthServer.GetTokenAuthority(ctx, request)
	}
	return &auth.GetTokenAuthorityResponse{PublicKey: s.key.Public().(ed25519.PublicKey)}, nil
}

// VerifyTokenAuthority proves that this build may use a token that was fetched before.
func (s *loginServer) VerifyTokenAuthority(_ context.Context, request *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	return &auth.VerifyTokenAuthorityResponse{Signed: append(ed25519.Sign(s.key, request.Payload), request.Payload...)}, nil
}

// FetchToken returns the registry's own token.
func (s *loginServer) FetchToken(_ context.Context, request *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	login, err := s.login(request.Host)
	if err != nil {
		return nil, err
	}
	return &auth.FetchTokenResponse{Token: login.RegistryToken}, nil
}
