package e2b

import (
	"encoding/base64"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// noBuild stands for the build of a template: sets are not built here, and SDKs want a UUID.
const noBuild = "00000000-0000-0000-0000-000000000000"

// templateView is a warm pool in E2B's words.
type templateView struct {
	TemplateID    string   `json:"templateID"`
	BuildID       string   `json:"buildID"`
	CPUCount      int      `json:"cpuCount"`
	MemoryMB      int      `json:"memoryMB"`
	DiskSizeMB    int      `json:"diskSizeMB"`
	Public        bool     `json:"public"`
	Aliases       []string `json:"aliases"`
	Names         []string `json:"names"`
	CreatedAt     string   `json:"createdAt"`
	UpdatedAt     string   `json:"updatedAt"`
	CreatedBy     *string  `json:"createdBy"`
	LastSpawnedAt *string  `json:"lastSpawnedAt"`
	SpawnCount    int      `json:"spawnCount"` // always 0: how busy others are is their business
	BuildCount    int      `json:"buildCount"`
	EnvdVersion   string   `json:"envdVersion"`
	BuildStatus   string   `json:"buildStatus"`
	Description   string   `json:"description,omitempty"` // why the pool cannot be filled
}

type templateDetail struct {
	templateView
	Builds []struct{} `json:"builds"`
}

func (s *server) templates(c echo.Context) error {
	all, err := s.service.Templates(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, templateViews(all))
}

// templatePages pages by name: a page begins after the name in its token.
func (s *server) templatePages(c echo.Context) error {
	var fs faults
	limit := pageSize(c, &fs)
	after, err := base64.RawURLEncoding.DecodeString(c.QueryParam("nextToken"))
	if err != nil {
		fs.add("nextToken", "must be the X-Next-Token of the page before")
	}
	if err := fs.err(); err != nil {
		return err
	}
	all, err := s.service.Templates(c.Request().Context())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(t warmpool.Template) bool { return t.Name <= string(after) })
	if len(all) > limit {
		all = all[:limit]
		c.Response().Header().Set("X-Next-Token", base64.RawURLEncoding.EncodeToString([]byte(all[limit-1].Name)))
	}
	return c.JSON(http.StatusOK, templateViews(all))
}

func (s *server) template(c echo.Context) error {
	t, err := s.service.Template(c.Request().Context(), templateName(param(c, "template")))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, templateDetail{templateView: templateOf(t), Builds: []struct{}{}})
}

func (s *server) alias(c echo.Context) error {
	t, err := s.service.Template(c.Request().Context(), templateName(param(c, "alias")))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"templateID": t.Name, "public": true})
}

func templateViews(all []warmpool.Template) []templateView {
	out := make([]templateView, 0, len(all))
	for _, t := range all {
		out = append(out, templateOf(t))
	}
	return out
}

func templateOf(t warmpool.Template) templateView {
	status := "ready"
	if t.Reason != "" && t.Ready == 0 {
		status = "error"
	}
	names := append([]string{t.Name}, t.Aliases...)
	return templateView{
		TemplateID: t.Name, BuildID: noBuild, CPUCount: max(1, t.Resources.CPUCount), MemoryMB: t.Resources.MemoryMB,
		DiskSizeMB: t.Resources.DiskMB, Public: true, Aliases: names, Names: names, CreatedAt: instant(t.CreatedAt),
		UpdatedAt: instant(t.UpdatedAt), BuildCount: 1, EnvdVersion: t.EnvdVersion, BuildStatus: status,
		Description: t.Reason,
	}
}
