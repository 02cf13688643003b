"""The parts that the dashboards are made of, as Grafana's JSON model."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"


def query(expr, legend="", **more):
    """One PromQL query. `{w}` in it stands for the matchers of the variables job and instance."""
    expr = expr.replace("{w}", '{job=~"$job", instance=~"$instance"}').replace(
        "{w,", '{job=~"$job", instance=~"$instance",'
    )
    return {"expr": expr, "legendFormat": legend, "editorMode": "code", "range": True, **more}


def now(expr, legend="", **more):
    """As `query`, for its value at the end of the time range only."""
    return query(expr, legend, range=False, instant=True, **more)


def steps(*pairs):
    """Thresholds: a colour for everything, then (value, colour) from there on."""
    first, *rest = pairs
    return {
        "mode": "absolute",
        "steps": [{"color": first, "value": None}, *({"color": color, "value": value} for value, color in rest)],
    }


def states(*triples):
    """Texts and colours for values: (value, text, colour)."""
    options = {
        str(value): {"text": text, "color": color, "index": index} for index, (value, text, color) in enumerate(triples)
    }
    return [{"type": "value", "options": options}]


def panel(kind, title, description, queries, **more):
    """What all kinds share. Letters name the queries of a panel."""
    field = {
        "unit": more.pop("unit", "short"),
        "color": more.pop("color", {"mode": "palette-classic"}),
        "thresholds": more.pop("thresholds", steps(GREEN)),
        "mappings": more.pop("mappings", []),
    }
    for name in ("min", "max", "decimals", "noValue"):
        if name in more:
            field[name] = more.pop(name)
    if "custom" in more:
        field["custom"] = more.pop("custom")
    targets = [{"refId": chr(ord("A") + n), "datasource": DATASOURCE, **target} for n, target in enumerate(queries)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": field, "overrides": more.pop("overrides", [])},
        "options": more.pop("options"),
        **more,
    }


def lines(title, description, queries, width=8, height=8, stack="none", **more):
    """Curves over time."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stack == "normal" else 8,
        "showPoints": "auto",
        "pointSize": 4,
        "spanNulls": False,
        "axisPlacement": "auto",
        "axisSoftMin": 0,
        "stacking": {"mode": stack, "group": "A"},
        "thresholdsStyle": {"mode": more.pop("threshold_style", "off")},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    made = panel("timeseries", title, description, queries, custom=custom, options=options, **more)
    return made, width, height


def stat(title, description, queries, width=3, height=4, graph="area", **more):
    """One figure, or one a series."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": more.pop("color_mode", "value"),
        "graphMode": graph,
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return panel("stat", title, description, queries, options=options, color={"mode": "thresholds"}, **more), width, height


def timeline(title, description, queries, width=12, height=7, **more):
    """States over time, a row for each series."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 70, "lineWidth": 0}
    made = panel(
        "state-timeline", title, description, queries, custom=custom, options=options, color={"mode": "thresholds"}, **more
    )
    return made, width, height


def table(title, description, queries, hidden, names, width=24, height=8, **more):
    """Instant queries joined on their labels; `hidden` columns are left out, `names` gives others a title."""
    targets = [{**target, "format": "table"} for target in queries]
    organize = {
        "excludeByName": {name: True for name in ["Time", "__name__", *hidden]},
        "indexByName": {},
        "renameByName": names,
    }
    transformations = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
    made = panel(
        "table",
        title,
        description,
        targets,
        options=options,
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        transformations=transformations,
        **more,
    )
    return made, width, height


def bars(title, description, queries, width=8, height=8, **more):
    """One bar a series."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "displayMode": "basic",
        "orientation": "horizontal",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
    }
    return panel("bargauge", title, description, queries, options=options, color={"mode": "thresholds"}, **more), width, height


def heatmap(title, description, queries, width=8, height=8, unit="s"):
    """The buckets of a histogram over time."""
    targets = [{**target, "format": "heatmap"} for target in queries]
    options = {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "reverse": False,
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "cellGap": 1,
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    custom = {"hideFrom": {"legend": False, "tooltip": False, "viz": False}, "scaleDistribution": {"type": "linear"}}
    return panel("heatmap", title, description, targets, custom=custom, options=options), width, height


def override(name_pattern, **properties):
    """Properties for the series or columns whose name matches."""
    return {
        "matcher": {"id": "byRegexp", "options": f"/{name_pattern}/"},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def variable(name, label, definition, description):
    """A variable that Prometheus fills: all values are chosen at first."""
    return {
        "name": name,
        "label": label,
        "description": description,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": definition, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid, title, description, rows, variables, link):
    """Lays the rows out from left to right: a row is a title and its (panel, width, height)."""
    placed, y, number = [], 0, 0
    for heading, panels in rows:
        number += 1
        position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        placed.append({"type": "row", "id": number, "title": heading, "collapsed": False, "gridPos": position, "panels": []})
        x, y, tallest = 0, y + 1, 0
        for made, width, height in panels:
            if x + width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            placed.append({"id": number, **made, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tensorfleet"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, *variables]},
        "annotations": {"list": [starts()]},
        "links": [link],
        "panels": placed,
    }


def starts():
    """Marks where a worker started."""
    return {
        "name": "Worker started",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        **{
            key: value
            for key, value in query("changes(process_start_time_seconds{w}[$__rate_interval]) > 0").items()
            if key == "expr"
        },
        "step": "30s",
        "titleFormat": "{{instance}} started",
    }


def link_to(title, uid):
    """A link to another dashboard that keeps the time and the variables."""
    return {
        "title": title,
        "type": "link",
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "tooltip": f"Opens {title} with the same time and workers",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }
