// What a dashboard file may hold, from Grafana's published types.
import type { AnnotationQuery, Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as Timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** A type as JSON shows it: members of an enum are their values. */
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : T
    : T extends boolean | null | undefined
      ? T
      : unknown extends T
        ? T
        : T extends readonly (infer E)[]
          ? Json<E>[]
          : T extends object
            ? { [K in keyof T]: Json<T[K]> }
            : T;

/** A query of the Prometheus data source, whose types are not part of the package. */
interface PrometheusQuery {
  refId: string;
  datasource: { type: 'prometheus'; uid: '${datasource}' };
  expr: string;
  legendFormat: string;
  editorMode: 'code' | 'builder';
  format?: 'time_series' | 'table' | 'heatmap';
  range: boolean;
  instant?: boolean;
}

interface Common extends Omit<Json<Panel>, 'type' | 'options' | 'targets' | 'fieldConfig' | 'description' | 'title'> {
  title: string;
  description: string;
  targets: PrometheusQuery[];
}

type Fields<Custom> = Omit<Json<NonNullable<Panel['fieldConfig']>>, 'defaults'> & {
  defaults: Omit<Json<NonNullable<Panel['fieldConfig']>['defaults']>, 'custom' | 'unit'> & {
    unit: string;
    custom?: Json<Custom>;
  };
};

type Kind<Type extends string, Options, Custom> = Common & {
  type: Type;
  options: Json<Options>;
  fieldConfig: Fields<Custom>;
};

type AnyPanel =
  | Kind<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>
  | Kind<'stat', Stat.Options, never>
  | Kind<'state-timeline', Timeline.Options, Timeline.FieldConfig>
  | Kind<'table', Table.Options, Table.FieldConfig>
  | Kind<'bargauge', BarGauge.Options, never>
  | Kind<'heatmap', Heatmap.Options, Heatmap.FieldConfig>;

/** What the Prometheus data source adds to an annotation. */
interface PrometheusAnnotation {
  expr: string;
  step: string;
  titleFormat: string;
}

export type DashboardFile = Omit<Json<Dashboard>, 'panels' | 'annotations' | 'uid' | 'title'> & {
  uid: string;
  title: string;
  panels: (AnyPanel | Json<RowPanel>)[];
  annotations: { list: (Json<AnnotationQuery> & PrometheusAnnotation)[] };
};
