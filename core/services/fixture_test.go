package services_test

import (
	"github.com/moatproject/moat/core"
)

const secret = "correct horse"

func postgres() core.ServiceConfig {
	return core.ServiceConfig{
		Name: "postgres", Version: "17", RunID: "0123abcd", Image: "postgres", Ports: map[string]int{"default": 5432},
		Env: map[string]string{"POSTGRES_PASSWORD": secret, "B": "2", "A": "1"}, PasswordEnv: "POSTGRES_PASSWORD",
		ExtraCmd: []string{"-c", "x={b}"}, ReadinessCmd: "pg_isready", NetworkID: "net",
	}
}

func buildkit() core.SidecarConfig {
	return core.SidecarConfig{Image: "moby/buildkit:latest", Name: "buildkit-1", Hostname: "buildkit", NetworkID: "net", Privileged: true}
}
