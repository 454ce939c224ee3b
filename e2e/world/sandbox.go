package world

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Sandbox is what a create answers, as far as a client without an SDK needs it.
type Sandbox struct {
	ID    string `json:"sandboxID"`
	Token string `json:"envdAccessToken"`
}

// StatusError is an answer; as an error, another one than was hoped for.
type StatusError struct {
	Status int
	Header http.Header
	Body   string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s", e.Status, e.Body) }

// Create asks for a sandbox of a template; more is what the body holds beside it, beginning with a comma.
func (w *World) Create(ctx context.Context, template, more string) (Sandbox, error) {
	body := fmt.Sprintf(`{"templateID":%q%s}`, template, more)
	answer, err := w.send(ctx, http.MethodPost, "/v2/sandboxes", body)
	if err != nil {
		return Sandbox{}, err
	}
	if answer.Status != http.StatusCreated {
		return Sandbox{}, answer
	}
	var s Sandbox
	err = json.Unmarshal([]byte(answer.Body), &s)
	return s, err
}

// Kill ends a sandbox.
func (w *World) Kill(ctx context.Context, s Sandbox) error {
	answer, err := w.send(ctx, http.MethodDelete, "/sandboxes/"+s.ID, "")
	if err == nil && answer.Status != http.StatusNoContent {
		err = answer
	}
	return err
}

// Request is one for a sandbox's envd.
func (w *World) Request(ctx context.Context, s Sandbox, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.URL+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("E2b-Sandbox-Id", s.ID)
	req.Header.Set("E2b-Sandbox-Port", "49983")
	req.Header.Set("X-Access-Token", s.Token)
	return req, nil
}

// Run runs a command as an SDK does and returns what it wrote to stdout. A command that fails is an error.
func (w *World) Run(ctx context.Context, s Sandbox, command string) (string, error) {
	return w.RunAs(ctx, s, "", command)
}

// RunAs is Run as another user than the one that SDKs take when they are told none.
func (w *World) RunAs(ctx context.Context, s Sandbox, user, command string) (string, error) {
	message, err := json.Marshal(map[string]any{"process": map[string]any{"cmd": "/bin/bash", "args": []string{"-l", "-c", command}}, "stdin": false})
	if err != nil {
		return "", err
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	req, err := w.Request(ctx, s, http.MethodPost, "/process.Process/Start", bytes.NewReader(append(frame, message...)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	if user != "" {
		req.SetBasicAuth(user, "")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return "", &StatusError{res.StatusCode, res.Header, string(text)}
	}
	return events(res.Body)
}

// event is one message of a process's stream.
type event struct {
	Event struct {
		Data struct{ Stdout, Stderr []byte }
		End  *struct {
			ExitCode int
			Status   string
		}
	}
	Error *struct{ Code, Message string }
}

func events(stream io.Reader) (string, error) {
	var out, stderr bytes.Buffer
	ended := false
	for header := make([]byte, 5); ; {
		if _, err := io.ReadFull(stream, header); err != nil {
			return out.String(), fmt.Errorf("the stream ends early: %w", err)
		}
		message := make([]byte, binary.BigEndian.Uint32(header[1:]))
		if _, err := io.ReadFull(stream, message); err != nil {
			return out.String(), fmt.Errorf("the stream ends early: %w", err)
		}
		var e event
		if err := json.Unmarshal(message, &e); err != nil {
			return out.String(), err
		}
		out.Write(e.Event.Data.Stdout)
		stderr.Write(e.Event.Data.Stderr)
		switch end := e.Event.End; {
		case e.Error != nil:
			return out.String(), fmt.Errorf("%s: %s", e.Error.Code, e.Error.Message)
		case end != nil && end.ExitCode != 0:
			return out.String(), fmt.Errorf("%s: %s", end.Status, stderr.String())
		case end != nil:
			ended = true
		case header[0]&2 != 0 && !ended:
			return out.String(), fmt.Errorf("the stream ends without the command's end")
		}
		if header[0]&2 != 0 {
			return out.String(), nil
		}
	}
}
