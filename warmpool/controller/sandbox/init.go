package sandbox

import (
	"context"
	"errors"

	"github.com/sandgate-dev/sandgate/injector/envd/initialize"
)

// initialise gives the sandbox's daemon its owner's token and environment again.
func (j *job) initialise(ctx context.Context) error {
	env, err := j.cfg.Fitter.Env(j.sb)
	if err == nil {
		err = j.cfg.Fitter.Init(ctx, j.sb, env)
	}
	if err != nil {
		j.cfg.Log.Warn("a claimed sandbox could not be initialised again", "sandbox", j.sb.Name, "namespace", j.sb.Namespace, "error", err)
	}
	return err
}

// unfit is the event of a daemon that does not take its owner back.
func (j *job) unfit(err error) []note {
	if errors.Is(err, initialize.ErrRefused) {
		return []note{{"DaemonRefused", "the sandbox's daemon restarted and was initialised by somebody else"}}
	}
	return nil
}
