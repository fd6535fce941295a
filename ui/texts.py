"""Every text of the page, in English and Chinese. The browser's language decides.

Labels that stand still are translated by the browser (`LABELS("key")`), what changes is translated on the server
(`speaker(request)` gives the function `t(key, **values)`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr

TEXTS: dict[str, tuple[str, str]] = {
    # the page
    "tagline": ("Watch a model think, and help it.", "看模型思考，也可以帮它一把。"),
    "tab_reason": ("Reason", "推理"),
    "tab_translate": ("Translate", "翻译"),
    "tab_compare": ("Compare", "对比"),
    "tab_runs": ("Runs", "记录"),
    "tab_lab": ("Lab", "评测"),
    # the model
    "model_ready": ("{name} · {engine}", "{name} · {engine}"),
    "model_loading": ("Getting the model ready", "正在准备模型"),
    "model_failed": ("The model is not there: {error}", "模型不可用：{error}"),
    "model_wait": ("The model is loading. Your question is next: {message}", "模型正在加载，完成后马上开始：{message}"),
    "model_label": ("Model", "模型"),
    "model_switch": ("Use this model", "使用此模型"),
    "model_switch_info": ("A name of the catalogue or a path. The old model stays until the new one is ready.",
                          "目录中的名称或路径。新模型就绪之前继续使用旧模型。"),
    "model_title": ("Model", "模型"),
    # asking
    "question": ("Question", "问题"),
    "question_placeholder": (
        "Ask anything. Enter runs, Shift+Enter breaks the line.",
        "想问什么？回车开始，Shift+回车换行。",
    ),
    "run": ("Run", "开始"),
    "stop": ("Stop", "停止"),
    "examples": ("Examples", "示例"),
    "settings": ("Settings", "设置"),
    "preset": ("Preset", "预设"),
    "preset_info": ("Marco: what measured best. Paper: the published method.", "Marco：实测最佳；论文：已发表的方法。"),
    "preset_marco": ("Marco", "Marco"),
    "preset_paper": ("Paper", "论文"),
    "strategy": ("How to think", "思考方式"),
    "strategy_info": ("Search a tree, try independently, or think once.", "树搜索、独立多次尝试，或只想一遍。"),
    "strategy_mcts": ("Tree search", "树搜索"),
    "strategy_self-consistency": ("Independent thoughts, then a vote", "独立思考后投票"),
    "strategy_best-of-n": ("Independent thoughts, the best one", "独立思考取最佳"),
    "strategy_cot": ("One thought", "只想一遍"),
    "strategy_direct": ("Answer without thinking", "不思考直接回答"),
    "rollouts": ("Thoughts to try", "思路数量"),
    "rollouts_info": ("More thoughts: slower, and a firmer vote.", "越多越慢，投票越可靠。"),
    "action": ("Size of a step", "步长"),
    "action_info": ("Where a thought may branch.", "思路可以在哪里分叉。"),
    "action_step": ("A whole step", "完整一步"),
    "action_mini-step-64": ("64 tokens", "64 个词元"),
    "action_mini-step-32": ("32 tokens", "32 个词元"),
    "reflection": ("Think again", "反思"),
    "reflection_info": ("After a thought, look for its mistakes.", "想完之后再检查一遍。"),
    "reflection_off": ("Never", "从不"),
    "reflection_low-confidence": ("When unsure", "没把握时"),
    "reflection_always": ("Always", "总是"),
    "select": ("How the answer is chosen", "如何选出答案"),
    "select_best": ("The most confident thought", "最有把握的思路"),
    "select_visits": ("The most visited line", "访问最多的思路"),
    "select_majority": ("Majority vote", "多数表决"),
    "select_weighted": ("Vote weighted by confidence", "按把握加权投票"),
    "select_consensus": ("Closest to all others", "与其他答案最接近"),
    "branching": ("Branches a node", "每个节点的分支"),
    "temperature": ("Temperature", "温度"),
    "top_p": ("Top-p", "Top-p"),
    "max_tokens": ("Longest thought (tokens)", "思路最长（词元）"),
    "max_seconds": ("Time limit (seconds)", "限时（秒）"),
    "tokens_limit": ("Token limit", "词元上限"),
    "no_limit": ("0 is no limit", "0 表示不限"),
    "seed": ("Seed", "随机种子"),
    "finer": ("Finer settings", "更多设置"),
    "language": ("Language of the answer", "回答的语言"),
    "language_info": ("Empty: the language of the question.", "留空：与问题相同。"),
    "system": ("Your own instructions", "自定义指令"),
    "system_info": ("Replaces the model's system prompt.", "替换模型的系统提示。"),
    # status
    "phase_searching": ("Thinking", "思考中"),
    "phase_loading": ("Loading", "加载中"),
    "phase_queued": ("Waiting in the queue", "排队中"),
    "queue_leave": ("Leave the queue", "离开队列"),
    "queue_place": ("You are in the queue: number {n} of {all}.", "排队中：第 {n} 位，共 {all} 位。"),
    "refused": (
        "The server has its hands full right now. Nothing that you wrote is lost: please try again in a minute.",
        "服务器现在忙不过来。您写的内容都还在，请过一分钟再试。",
    ),
    "phase_stopping": ("Stopping", "正在停止"),
    "ended_done": ("Done: every line was explored", "完成：所有思路都已探索"),
    "ended_rollouts": ("Done", "完成"),
    "ended_tokens": ("Done: the token limit is reached", "完成：达到词元上限"),
    "ended_seconds": ("Done: the time is up", "完成：时间到"),
    "ended_user": ("Stopped", "已停止"),
    "ended_sure": ("Done: the vote is settled", "完成：投票已有定论"),
    "ended_error": ("Something went wrong", "出错了"),
    "rollouts_of": ("thought {done} of {all}", "思路 {done} / {all}"),
    "rollouts_done": ("{done} thoughts", "{done} 条思路"),
    "tokens_made": ("{n} tokens", "{n} 词元"),
    "pace": ("{n} tokens/s", "{n} 词元/秒"),
    "time_left": ("about {t} left", "大约还需 {t}"),
    "progress": ("Share of the budget that is used", "预算使用比例"),
    "surprise": (
        "Something unexpected went wrong inside Marco; the log says more.",
        "Marco 内部出现意外错误，详情见日志。",
    ),
    "not_drawn": ("This part can't be drawn; the search goes on.", "此部分无法绘制，搜索仍在继续。"),
    "part_of": ("part {n} of {all}", "第 {n} / {all} 部分"),
    # answer
    "answer": ("Answer", "答案"),
    "answer_so_far": ("Best answer so far", "目前的最佳答案"),
    "answer_final": ("Answer", "答案"),
    "answer_pending": (
        "The first answer shows here as soon as a thought is finished.",
        "第一条思路完成后，答案会显示在这里。",
    ),
    "answer_none": ("No thought reached an answer.", "没有思路得出答案。"),
    "margin": ("Margin of the vote", "票数优势"),
    "margin_hint": (
        "How far the answer leads the next one: 0% is a tie, 100% unanimous",
        "领先第二名的幅度：0% 平局，100% 一致",
    ),
    "token_confidence": ("Token confidence", "词元把握"),
    "token_confidence_hint": ("Mean confidence over the tokens of the chosen thought", "所选思路各词元的平均把握"),
    "votes_title": ("The vote", "投票"),
    "votes_more": ("and {n} more", "另有 {n} 个"),
    "vote_answer": ("Answer", "答案"),
    "vote_rollouts": ("Thoughts", "思路"),
    "vote_weight": ("Weight", "权重"),
    "vote_share": ("Share", "占比"),
    # tree
    "tree_title": ("Tree of thoughts", "思路树"),
    "tree": ("Tree of thoughts", "思路树"),
    "kind_root": ("Question", "问题"),
    "kind_opening": ("Asked in another way", "换一种问法"),
    "kind_thought": ("Thought", "思路"),
    "kind_reflection": ("Reflection", "反思"),
    "kind_answer": ("Answer", "答案"),
    "kind_ghost": ("Being written", "正在写"),
    "kind_fold": ("Folded", "已折叠"),
    "visit": ("visit", "次访问"),
    "visits": ("visits", "次访问"),
    "value": ("value", "价值"),
    "tokens": ("tokens", "词元"),
    "best": ("on the best path", "在最佳路径上"),
    "waiting": ("not searched yet", "尚未搜索"),
    "pruned": ("pruned", "已剪去"),
    "pinned": ("pinned", "已固定"),
    "forced": ("put in", "置入"),
    "hidden": ("{n} more below", "下面还有 {n} 个"),
    "folded": ("{n} more steps", "另有 {n} 步"),
    "shown": ("{n} of {all} nodes", "{n} / {all} 个节点"),
    "fit": ("Fit", "适应窗口"),
    "zoom_in": ("Zoom in", "放大"),
    "zoom_out": ("Zoom out", "缩小"),
    # inspector
    "node_title": ("Node", "节点"),
    "node_none": ("Choose a node of the tree to read it.", "选择树上的节点即可阅读。"),
    "on_best_path": ("best path", "最佳路径"),
    "figure_visits": ("Visits", "访问"),
    "figure_value": ("Value", "价值"),
    "figure_confidence": ("Confidence", "把握"),
    "figure_tokens": ("Tokens", "词元"),
    "figure_seconds": ("Time", "用时"),
    "path_title": ("The line of thought that leads here", "通向这里的思路"),
    "tokens_label": (
        "Tokens, shaded by doubt: arrow keys move, alternatives show",
        "词元，按疑虑着色：方向键移动并显示备选",
    ),
    "copy": ("Copy", "复制"),
    "fork_hint": ("Go on from here with this token", "从这里改用此词元继续"),
    "confidence_word": ("confidence", "把握"),
    # steering
    "steering_label": ("Take part", "参与"),
    "steer_expand": ("Expand here", "从这里展开"),
    "steer_expand_hint": ("The next thought starts at this node", "下一条思路从此节点开始"),
    "steer_prune": ("Prune", "剪去"),
    "steer_prune_hint": ("Search no further below this node", "不再搜索此节点之下"),
    "steer_restore": ("Restore", "恢复"),
    "steer_restore_hint": ("Search below this node again", "重新搜索此节点之下"),
    "steer_pin": ("Pin", "固定"),
    "steer_pin_hint": ("Search below this node only", "只在此节点之下搜索"),
    "steer_unpin": ("Unpin", "取消固定"),
    "steer_unpin_hint": ("Search everywhere again", "重新搜索各处"),
    "steer_edit": ("Edit and go on", "修改后继续"),
    "steer_edit_hint": ("Put your own words beside this thought and go on from them", "写下你自己的想法并由此继续"),
    "steer_rethink": ("Think again", "再想想"),
    "steer_rethink_hint": ("A reflection at this node", "在此节点反思"),
    "edit_label": ("Your words, from which the model goes on", "由你来写，模型接着想"),
    "edit_go": ("Go on from this", "由此继续"),
    "edit_cancel": ("Cancel", "取消"),
    "more_label": ("More thoughts", "追加思路"),
    "more": ("Give it more", "再多想想"),
    # charts
    "charts_title": ("Charts", "图表"),
    "chart_path": ("Confidence along the line of thought", "沿思路的把握"),
    "chart_tokens": ("token", "词元"),
    "chart_window": ("mean of 16", "16 个均值"),
    "chart_rollouts": ("Value of each thought", "各思路的价值"),
    "chart_rollout": ("thought", "思路"),
    "chart_agrees": ("the same answer", "相同答案"),
    "chart_differs": ("another answer", "其他答案"),
    "chart_answer": ("The best answer over time", "最佳答案随时间变化"),
    "chart_spent": ("tokens spent", "已用词元"),
    # thoughts
    "thoughts_title": ("Thoughts", "思考过程"),
    "thought": ("Thought {n}", "思路 {n}"),
    "reflected": ("Thought {n}, a second look", "思路 {n}，再次审视"),
    "writing": ("Thought {n}, being written", "思路 {n}，正在写"),
    "writing_reflection": ("Thought {n}, looking again", "思路 {n}，正在重新审视"),
    "reflection_changed": ("changed its mind: {before} → {after}", "改变主意：{before} → {after}"),
    "reflection_same": ("stays with {after}", "仍然是 {after}"),
    "value_short": ("value {v}", "价值 {v}"),
    "degenerate_loop": ("repeats itself", "自我重复"),
    "degenerate_cut_off": ("cut off", "被截断"),
    "degenerate_no_answer": ("no answer", "没有答案"),
    "degenerate_empty": ("empty", "空"),
    "degenerate_refused": ("refused", "拒绝翻译"),
    "degenerate_untranslated": ("partly untranslated", "有未译部分"),
    "degenerate_a_list_of_senses": ("a list of senses", "只列出释义"),
    "degenerate_word_for_word": ("word for word", "逐字直译"),
    "degenerate_glossary_ignored": ("glossary not followed", "未按术语表"),
    "degenerate_lines_lost": ("line breaks lost", "丢失换行"),
    "follow_up": ("Follow up", "追问"),
    "follow_up_placeholder": ("Ask about this answer: what was said is kept.", "接着问：之前的对话会保留。"),
    "earlier_thoughts": ("{n} thoughts", "{n} 条思路"),
    # runs
    "runs_find": ("Find", "查找"),
    "runs_find_placeholder": ("A word of the question or answer", "问题或答案中的词"),
    "runs_since": ("Since", "起始日期"),
    "runs_model": ("Model", "模型"),
    "runs_any": ("any", "不限"),
    "runs_refresh": ("Refresh", "刷新"),
    "runs_none": ("No run is kept here yet.", "还没有记录。"),
    "runs_question": ("Question", "问题"),
    "runs_answer": ("Answer", "答案"),
    "runs_created": ("When", "时间"),
    "runs_rollouts": ("Thoughts", "思路"),
    "runs_ended": ("Ended by", "结束原因"),
    "runs_open": ("Open", "打开"),
    "runs_replay": ("Replay", "回放"),
    "runs_replay_info": ("Event {n} of {all}", "事件 {n} / {all}"),
    "runs_resume": ("Resume", "继续"),
    "runs_export": ("Export", "导出"),
    "runs_delete": ("Delete", "删除"),
    "runs_delete_sure": ("Delete this run for good", "永久删除此记录"),
    "runs_other": ("Compare with", "与之对比"),
    "runs_count": ("{n} of {all} runs", "{n} / {all} 条记录"),
    # lab
    "lab_none": (
        "No evaluation is kept here yet: marco evaluate makes one.",
        "还没有评测：用 marco evaluate 生成。",
    ),
    "lab_gone": ("{name} is not here any more.", "{name} 已不存在。"),
    "lab_reading": ("Reading {name}", "正在读取 {name}"),
    "lab_report": ("Report of {name}", "{name} 的报告"),
    "lab_record": ("Evaluation", "评测"),
    "lab_rows": ("Searches", "搜索次数"),
    "lab_state": ("State", "状态"),
    "lab_settled": ("complete", "完成"),
    "lab_written": ("under way", "进行中"),
    "lab_changed": ("Last row", "最近一行"),
    "lab_so_far": ("As far as it is: {n} searches.", "目前为止：{n} 次搜索。"),
    "lab_empty": ("There are no rows yet.", "还没有数据。"),
    "lab_summary": ("Summary", "汇总"),
    "lab_task": ("Task", "任务"),
    "lab_combination": ("Strategy", "策略"),
    "lab_problems": ("Problems", "题数"),
    "lab_accuracy": ("Accuracy", "准确率"),
    "lab_interval": ("95%", "95%"),
    "lab_tokens": ("Tokens", "词元"),
    "lab_seconds": ("Seconds", "秒"),
    # compare
    "compare_strategies": ("Strategies", "策略"),
    "compare_tokens": ("Tokens for each", "每个策略的词元数"),
    "compare_info": (
        "One question, each strategy with the same number of tokens. A single thought takes what it takes.",
        "同一问题，各策略词元数相同；只想一遍的策略用多少算多少。",
    ),
    "compare_two": ("Choose two strategies or more.", "请至少选择两个策略。"),
    "compare_next": ("waits for its turn", "等待中"),
    # translate
    "sentence": ("Sentence", "句子"),
    "sentence_placeholder": ("What should be said in another language? Enter translates.", "想翻译什么？回车开始。"),
    "to": ("Into", "译成"),
    "translate": ("Translate", "翻译"),
    "translation": ("Translation", "译文"),
    "translation_so_far": ("Best translation so far", "目前的最佳译文"),
    "translation_chosen": ("Translation, chosen by you", "译文（由您选定）"),
    "use_this": ("Use this one", "用这个"),
    "translation_pending": (
        "The translation shows here as soon as a thought is finished.",
        "第一条思路完成后，译文会显示在这里。",
    ),
    "translation_none": ("No thought reached a translation.", "没有得出译文。"),
    "mode": ("Care", "细致程度"),
    "mode_quick": ("Quick: one pass, no thought", "快速：直接翻译"),
    "mode_careful": ("Careful: several readings, the one they agree on", "细致：多次解读，取共识"),
    "mode_paper": ("Paper: the most confident reading", "论文：取最有把握的解读"),
    "source": ("From", "原文语言"),
    "source_info": ("Empty: it is recognised.", "留空：自动识别。"),
    "glossary": ("Words of your own", "自定义词汇"),
    "glossary_info": ("word = translation, a line each", "每行一个：词 = 译法"),
    "agreement": ("Agreement", "一致程度"),
    "agreement_hint": ("How alike the candidates are", "各候选译文的相似程度"),
    "expressions": ("What is not meant literally", "不能按字面理解的说法"),
    "said": ("Said", "原话"),
    "literally": ("Literally", "字面"),
    "meant": ("Meant", "含义"),
    "put": ("Put as", "译作"),
    "alternatives": ("Other ways to say it ({n})", "其他译法（{n}）"),
    "how_found": ("How it was found: the tree and the thoughts", "翻译过程：思路树与思考"),
    "draft": ("First draft", "初稿"),
    "original": ("Original", "原文"),
    "from_dictionary": ("What a dictionary says; the model passed it over", "词典的释义；模型没有提到"),
    "not_put": ("put otherwise", "换了说法"),
    "beside_label": ("More", "更多"),
    "register_plain": ("Say it plainly", "平实一些"),
    "register_casual": ("Say it casually", "口语一些"),
    "register_playful": ("Say it playfully", "俏皮一些"),
    "beside_back": ("Translate it back", "回译"),
    "beside_direct": ("Direct translation beside it", "与直接翻译对照"),
    "beside_reasoned": ("Reasoned", "经过思考"),
    "beside_working": ("Being written", "正在写"),
    "beside_failed": ("There is no model to ask.", "没有可用的模型。"),
    "lines_title": ("Many lines", "批量翻译"),
    "lines": ("Lines", "多行文本"),
    "lines_placeholder": ("A text a line, up to 1,000 lines", "每行一段，最多 1000 行"),
    "lines_upload": ("Upload a file", "上传文件"),
    "lines_run": ("Translate each line", "逐行翻译"),
    "lines_done": ("{done} of {all} lines", "{done} / {all} 行"),
    "lines_download": ("Download as CSV", "下载 CSV"),
    "lines_file": ("The file is no text in UTF-8, or larger than 4 MB.", "文件不是 UTF-8 文本，或大于 4 MB。"),
    "lines_warnings": ("To check", "请核对"),
    "from_to": ("{source} → {target}", "{source} → {target}"),
}  # fmt: skip

LANGUAGES = ("en", "zh")

LABELS = gr.I18n(
    **{
        "en": {key: english for key, (english, _) in TEXTS.items()},
        "zh-CN": {key: chinese for key, (_, chinese) in TEXTS.items()},
        "zh": {key: chinese for key, (_, chinese) in TEXTS.items()},
        "zh-TW": {key: chinese for key, (_, chinese) in TEXTS.items()},
    }
)


def language_of(request: gr.Request | None) -> str:
    """`zh` for a browser whose first language is Chinese, else `en`."""
    headers = getattr(request, "headers", None) or {}
    return "zh" if str(headers.get("accept-language", "")).lower().lstrip().startswith("zh") else "en"


@cache
def texts(language: str) -> Callable[..., str]:
    """`t(key, **values)` in one of `LANGUAGES`. An unknown key is a mistake of the program: KeyError."""
    index = LANGUAGES.index(language)

    def t(key: str, **values: Any) -> str:
        text = TEXTS[key][index]
        return text.format(**values) if values else text

    return t


def speaker(request: gr.Request | None) -> Callable[..., str]:
    return texts(language_of(request))


TREE_WORDS = (
    "tree", "kind_root", "kind_opening", "kind_thought", "kind_reflection", "kind_answer", "kind_ghost", "kind_fold",
    "visit", "visits", "value", "tokens", "best", "waiting", "pruned", "pinned", "hidden", "folded", "shown", "fit",
    "zoom_in", "zoom_out",
)  # fmt: skip


@cache
def tree_words(language: str) -> dict[str, str]:
    """The texts that the tree view draws with."""
    t = texts(language)
    return {key: t(key) for key in TREE_WORDS}
